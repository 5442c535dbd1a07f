"""The ``data pack`` command: its options reach the library, and its mistakes are told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from mmtrain.command.data.pack import pack
from mmtrain.data import ShardReader, load_manifest, open_shards
from mmtrain.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six pictures and a table of them."""
    folder = tmp_path / "images"
    folder.mkdir()
    lines = ["name;words;kind".replace(";", ",")]
    for number in range(6):
        pixels = np.full((50, 80, 3), 40 * number, np.uint8)
        (folder / f"{number}.png").write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
        lines.append(f"{number}.png,gray {number},{number % 2}")
    (tmp_path / "table.csv").write_text("\n".join(lines))
    return folder


def test_images_are_packed_by_the_command_itself(folder: Path, tmp_path: Path) -> None:
    table = ("--captions", "table.csv", "--path-column", "name", "--caption-column", "words", "--label-column", "kind")
    options = ("--samples-per-shard", "4", "--shuffle", "3", "--resize", "20", "--quality", "70", "--workers", "2")
    command = [sys.executable, "-m", "mmtrain", "data", "pack", "images", folder.name, "--out", "out", *table, *options]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    assert [cell.strip() for cell in done.stdout.splitlines()[-2].split("│")[1:4]] == ["out", "6", "2"]
    reader = ShardReader(open_shards(tmp_path / "out"))
    samples = [reader.read(number) for number in range(6)]
    assert sorted(raw["txt"].decode() for raw in samples) == [f"gray {number}" for number in range(6)]
    assert [raw["txt"] for raw in samples] != sorted(raw["txt"] for raw in samples)
    for raw in samples:
        assert json.loads(raw["json"])["label"] == int(raw["txt"][-1:]) % 2
        assert cv2.imdecode(np.frombuffer(raw["jpg"], np.uint8), cv2.IMREAD_COLOR).shape == (20, 32, 3)


def test_text_is_packed_with_its_options(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo")
    (tmp_path / "b.csv").write_text('body\nthree\n""\n')
    arguments = ["text", str(tmp_path / "a.txt"), str(tmp_path / "b.csv"), "--out", str(tmp_path / "out")]
    options = ["--tokenizer", "bytes", "--text-column", "body", "--split-on", "blank-line", "--no-append-eos"]
    pack([*arguments, *options, "--keep-text", "--skip-bad", "--workers", "1", "--samples-per-shard", "2"])
    reader = ShardReader(load_manifest(tmp_path / "out" / "manifest.json"))
    samples = [reader.read(number) for number in range(len(reader))]
    assert [raw["txt"] for raw in samples] == [b"one", b"two", b"three"]
    assert [np.frombuffer(raw["u16"], "<u2").tolist() for raw in samples] == [list(raw["txt"]) for raw in samples]
    assert len(reader.manifest.shards) == 2


@pytest.mark.parametrize(("size", "shards"), [("1GB", 1), ("20KiB", 1), ("20 KB", 2), ("10240", 2), ("10239B", 6)])
def test_the_size_of_shards_is_given_in_units(size: str, shards: int, folder: Path, tmp_path: Path) -> None:
    for number in range(6):
        (folder / f"{number}.txt").write_text("gray")
    pack(["images", str(folder), "--out", str(tmp_path / "out"), "--shard-size", size, "--workers", "1"])
    assert len(load_manifest(tmp_path / "out" / "manifest.json").shards) == shards


@pytest.mark.parametrize(
    ("argv", "message", "mend"),
    [
        (["image"], "there is no `data pack image`", "did you mean 'images'?"),
        (["images", ".", "--out", "out", "--shard-size", "1XB"], "'1XB' is no size", "256MB"),
        (["images", ".", "--out", "out", "--resize", "0"], "resize is 0", "at least 1"),
        (["images", ".", "--out", "out", "--resize", "9", "--quality", "0"], "quality is 1 to 100", "90"),
        (["text", "a.jsonl", "--out", "out", "--tokenizer", "clap"], "no tokenizer 'clap'", "did you mean 'clip'?"),
    ],
)
def test_a_mistake_is_told(argv: list[str], message: str, mend: str) -> None:
    with pytest.raises(UserError) as refused:
        pack(argv)
    assert message in refused.value.message
    assert mend in str(refused.value.mend)


@pytest.mark.parametrize("argv", [[], ["--help"]])
def test_usage_is_shown(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    pack(argv)
    assert "images FOLDER | text INPUT..." in capsys.readouterr().out
