"""``data index`` on shards of others."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from mmtrain.command.data import data
from mmtrain.data import load_manifest, open_shards
from mmtrain.data.shards.index import index_path
from mmtrain.data.shards.write import write_shards
from mmtrain.errors import DataError, UserError

Cells = Callable[[], dict[str, str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    samples = [(f"{number:03d}", {"txt": b"x" * number, "cls": b"1"}) for number in range(7)]
    write_shards(samples, tmp_path, "s", samples_per_shard=3)
    return tmp_path


@pytest.fixture
def cells(capsys: pytest.CaptureFixture[str]) -> Cells:
    """The last table's one row, by column."""

    def read() -> dict[str, str]:
        lines = capsys.readouterr().out.splitlines()
        (names,) = (line.strip("┃").split("┃") for line in lines if line.startswith("┃"))
        (row,) = (line.strip("│").split("│") for line in lines if line.startswith("│"))
        return dict(zip(map(str.strip, names), map(str.strip, row), strict=True))

    return read


def test_a_folder_becomes_a_data_set(folder: Path, cells: Cells) -> None:
    data(["index", str(folder), "--columns", "text_length,num_tokens"])
    row = cells()
    assert (row["shards"], row["samples"], row["MiB"]) == ("3", "7", "0.0")
    assert float(row["members/s"].replace(",", "")) > 10
    manifest = open_shards(folder)
    assert manifest.samples == 7
    assert json.loads((folder / "manifest.json").read_text())["shardlist"][0]["totals"]["text_length"] == 3


def test_what_is_indexed_is_not_read_again_unless_forced(folder: Path, cells: Cells) -> None:
    argv = ["index", str(folder / "s-{000000..000002}.tar")]

    def written() -> list[int]:
        return [index_path(path).stat().st_mtime_ns for path in sorted(folder.glob("*.tar"))]

    data(argv)
    assert (folder / "s-000000-000002.manifest.json").exists()
    first = written()
    cells()
    data(argv)
    assert cells()["members/s"] == "(indexed before)"
    assert written() == first
    data([*argv, "--force"])
    assert cells()["members/s"] != "(indexed before)"
    assert all(new > old for new, old in zip(written(), first, strict=True))


def test_the_place_of_the_manifest_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data(["index", str(folder), "--workers", "1"])
    assert f"Manifest: {folder / 'manifest.json'}\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "reason", "mend"),
    [
        (["--columns", "widht"], "no column 'widht'", "did you mean 'width'?"),
        (["--out", "elsewhere"], "folder of its own", "leave --out away"),
    ],
)
def test_a_mistake_is_told_with_its_mend(folder: Path, argv: list[str], reason: str, mend: str) -> None:
    with pytest.raises(UserError, match=reason) as refused:
        data(["index", str(folder), *argv])
    assert mend in (refused.value.mend or "")
    assert not list(folder.glob("*.mmidx"))


@pytest.mark.parametrize("shards", ["s3://bucket/{0..9}.tar", "pipe:cat {0..9}.tar"])
def test_remote_shards_need_a_folder_for_their_index(shards: str) -> None:
    with pytest.raises(UserError, match="folder of its own") as refused:
        data(["index", shards])
    assert refused.value.mend == "give --out DIR"


@pytest.mark.parametrize("option", [["--force"], ["--workers", "2"]])
def test_options_that_remote_shards_have_not_are_refused(tmp_path: Path, option: list[str]) -> None:
    with pytest.raises(UserError, match="for shards on this machine"):
        data(["index", "s3://bucket/{0..9}.tar", "--out", str(tmp_path), *option])


def test_shards_of_a_command_are_indexed_into_a_folder(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "index"
    data(["index", f"pipe:cat {folder}/s-{{000000..000002}}.tar", "--out", str(out), "--columns", "text_length"])
    assert load_manifest(out / "manifest.json").samples == 7
    data(["inspect", str(out)])
    assert re.search(r"text_length +│ +0 │ +3 │ +6 │ +21 ", capsys.readouterr().out)
    for option in (["--samples", "1"], ["--verify"], ["--grid", "x.png"]):
        with pytest.raises(DataError, match="only the index of remote shards"):
            data(["inspect", str(out), *option])


def test_workers_are_at_least_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        data(["index", str(folder), "--workers", "0"])
    assert "at least 1" in capsys.readouterr().err


def test_a_damaged_shard_is_named(folder: Path) -> None:
    shard = folder / "s-000001.tar"
    shard.write_bytes(shard.read_bytes()[:700])
    with pytest.raises(DataError, match="truncated") as refused:
        data(["index", str(folder)])
    assert str(shard) in (refused.value.where or "")
