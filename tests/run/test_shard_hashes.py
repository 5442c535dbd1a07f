"""A run lists the shards of each of its sources, wherever its config says that they lie."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from mmtrain.run import shard_hashes as module
from mmtrain.run.shard_hashes import shard_hashes


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.tar"))}


def test_shards_are_found_below_root_by_the_names_of_sources(shapes: Path) -> None:
    found = shard_hashes({"data": {"root": str(shapes)}}, ["train", "eval/new_style", "eval/new_concept", "tokenizer"])
    assert list(found) == ["train", "eval/new_style", "eval/new_concept"]
    assert len(found["train"]) == 3
    for name, shards in found.items():
        assert shards == hashes(shapes / name.removeprefix("eval/"))


def test_training_shards_may_lie_elsewhere_one_set_or_several(shapes: Path) -> None:
    other = str(shapes / "new_style")
    config = {"data": {"root": "/nowhere", "train": other}}
    assert shard_hashes(config, ["train"]) == {"train": hashes(shapes / "new_style")}
    config = {"data": {"root": "/nowhere", "train": {"a": str(shapes / "train"), "b": other}}}
    assert shard_hashes(config, ["train/a", "train/b"]) == {
        "train/a": hashes(shapes / "train"),
        "train/b": hashes(shapes / "new_style"),
    }
    assert shard_hashes({"data": {"root": "/nowhere", "train": {"a": other}}}, ["train"]) == {
        "train": hashes(shapes / "new_style")
    }


def test_what_cannot_be_listed_is_left_out_and_stops_nothing(shapes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shard_hashes({"data": {"root": "/nowhere"}}, ["train", "eval/x"]) == {}
    assert shard_hashes({"data": {"text": "a.txt"}}, ["train", "tokenizer", "vocabulary"]) == {}
    monkeypatch.setattr(module, "MOST_SHARDS", 2)
    assert list(shard_hashes({"data": {"root": str(shapes)}}, ["train", "eval/new_style"])) == ["eval/new_style"]
