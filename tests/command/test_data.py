"""The ``data`` command: what it prints, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmtrain.command.data import data
from mmtrain.config import allow_targets, compose
from mmtrain.config.directory import config_dir
from mmtrain.data.decode.tokenizer import ClipTokenizer
from mmtrain.data.prepare import MARKER, prepare_once
from mmtrain.data.shards.build import build_manifest
from mmtrain.data.shards.write import write_shards
from mmtrain.data.sources import EvalSpec
from mmtrain.errors import DataError, UserError


class Letters:
    """A data set of ten letters."""

    def __init__(self, image_size: int) -> None:
        self.image_size = image_size

    @property
    def name(self) -> str:
        return "letters"

    @property
    def eval_sets(self) -> dict[str, EvalSpec]:
        return {"test": EvalSpec("test", "retrieval")}

    def prepare(self, root: Path) -> None:
        prepare_once(root, self._make)

    def _make(self, root: Path) -> None:
        for split, letters in (("train", "abcdefg"), ("test", "xyz")):
            samples = [
                (letter, {"txt": f"[bold]{letter}".encode(), "png": b"?" * self.image_size}) for letter in letters
            ]
            paths = write_shards(samples, root / split, "letters", samples_per_shard=4)
            build_manifest(paths, root / split / "manifest.json")
        (root / MARKER).write_text(json.dumps({}))


@pytest.fixture(autouse=True)
def letters(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    allow_targets("test_data.")
    monkeypatch.setattr(ClipTokenizer, "load", lambda self: None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf" / "data").mkdir(parents=True)
    shipped = (config_dir() / "data" / "emoji.yaml").read_text()
    own = shipped.replace("mmtrain.data.sources.emoji.Emoji", "test_data.Letters").replace("/emoji", "/letters")
    (tmp_path / "conf" / "data" / "letters.yaml").write_text(own)


def prepare_letters(*arguments: str) -> None:
    data(["prepare", "letters", "--config-dir", "conf", *arguments])


def test_prepare_makes_the_data_set_and_says_what_and_where(capsys: pytest.CaptureFixture[str]) -> None:
    prepare_letters("data.source.image_size=64")
    printed = capsys.readouterr().out
    assert [line.split("│")[1:4] for line in printed.splitlines() if "│" in line] == [
        [" test  ", "       3 ", "      1 "],
        [" train ", "       7 ", "      2 "],
    ]
    assert str(Path("data", "letters", "README.md")) in printed


def test_prepare_makes_the_root_that_is_asked_for(tmp_path: Path) -> None:
    prepare_letters("--root", "elsewhere/set")
    assert (tmp_path / "elsewhere" / "set" / MARKER).is_file()


def test_prepare_and_training_look_in_the_same_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMTRAIN_DATA", str(tmp_path / "scratch"))
    prepare_letters()
    assert (tmp_path / "scratch" / "letters" / MARKER).exists()
    assert compose(["experiment=clip_emoji"]).config["data"]["root"] == str(tmp_path / "scratch" / "emoji")


def test_inspect_shows_samples_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    prepare_letters("data.source.image_size=64")
    capsys.readouterr()
    data(["inspect", "data/letters", "--samples", "2"])
    printed = capsys.readouterr().out
    assert 'train  a  "[bold]a"  (txt 7 B, png 64 B)' in printed
    assert '"[bold]b"' in printed
    assert '"[bold]c"' not in printed


def test_inspect_takes_one_set_too(capsys: pytest.CaptureFixture[str]) -> None:
    prepare_letters()
    capsys.readouterr()
    data(["inspect", "data/letters/test", "--samples", "9"])
    shown = [line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("test  ")]
    assert shown == ["x", "y", "z"]


def test_verify_names_the_damaged_sample(capsys: pytest.CaptureFixture[str]) -> None:
    prepare_letters()
    data(["inspect", "data/letters", "--verify"])
    assert "is what the manifest says" in capsys.readouterr().out
    shard = Path("data/letters/train/letters-000001.tar")
    damaged = bytearray(shard.read_bytes())
    damaged[damaged.index(b"[bold]f")] ^= 1
    shard.write_bytes(damaged)
    with pytest.raises(DataError) as refused:
        data(["inspect", "data/letters", "--verify", "--samples", "0"])
    assert str(refused.value.where).endswith("letters-000001.tar, key f")


def test_verify_finds_damage_between_samples() -> None:
    prepare_letters()
    shard = Path("data/letters/train/letters-000001.tar")
    damaged = bytearray(shard.read_bytes())
    damaged[-1] ^= 1
    shard.write_bytes(damaged)
    with pytest.raises(DataError, match="outside its samples"):
        data(["inspect", "data/letters", "--verify", "--samples", "0"])


@pytest.mark.parametrize(
    ("argv", "mend"),
    [(["prepair", "letters"], "did you mean 'prepare'?"), (["prepare", "emojis"], "did you mean 'emoji'?")],
)
def test_an_unknown_name_is_told_the_nearest(argv: list[str], mend: str) -> None:
    with pytest.raises(UserError) as refused:
        data(argv)
    assert refused.value.mend == mend


@pytest.mark.parametrize("argv", [[], ["--help"]])
def test_usage_is_shown(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    data(argv)
    assert "inspect DIR|PATTERN" in capsys.readouterr().out


def test_a_set_without_a_source_cannot_be_prepared() -> None:
    with pytest.raises(UserError, match="data=image_text reads shards of yours") as refused:
        data(["prepare", "image_text", "data.train=shards"])
    assert "data index" in str(refused.value.mend)
