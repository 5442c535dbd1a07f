"""Preparing a folder: once, whole or not at all, whoever asks and whoever is killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from mmtrain.data.prepare import MARKER, prepare_once
from mmtrain.errors import DataError

SPAWN = multiprocessing.get_context("spawn")


def fill(folder: Path) -> None:
    (folder / "shards").mkdir()
    (folder / "shards" / "a.tar").write_bytes(b"data")
    (folder / MARKER).write_text("{}")


def fill_slowly_and_log(root: Path, barrier: Barrier) -> None:
    def make(folder: Path) -> None:
        with (root.parent / "made.log").open("a") as log:
            log.write("made\n")
        time.sleep(0.3)
        fill(folder)

    barrier.wait()
    prepare_once(root, make)
    assert (root / "shards" / "a.tar").read_bytes() == b"data"


def fill_half_and_hang(root: Path) -> None:
    def make(folder: Path) -> None:
        (folder / "half.tar").write_bytes(b"da")
        (root.parent / "hanging").touch()
        time.sleep(60)

    prepare_once(root, make)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def never(folder: Path) -> None:
    raise AssertionError(f"{folder} was made again")


def test_processes_that_ask_together_make_the_folder_once(tmp_path: Path) -> None:
    barrier = SPAWN.Barrier(3)
    processes = [SPAWN.Process(target=fill_slowly_and_log, args=(tmp_path / "set", barrier)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert (tmp_path / "made.log").read_text() == "made\n"
    assert names(tmp_path) == ["made.log", "set"]


def test_after_a_kill_the_folder_is_made_anew_and_the_leftover_is_gone(tmp_path: Path) -> None:
    root = tmp_path / "set"
    process = SPAWN.Process(target=fill_half_and_hang, args=(root,))
    process.start()
    while not (tmp_path / "hanging").exists():
        assert process.is_alive()
        time.sleep(0.02)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not root.exists()
    assert any(".tmp-" in name for name in names(tmp_path)), "the kill came too late to leave anything"
    prepare_once(root, fill)
    assert names(tmp_path) == ["hanging", "set"]
    assert names(root) == [MARKER, "shards"]


def test_a_complete_folder_is_left_alone(tmp_path: Path) -> None:
    prepare_once(tmp_path / "set", fill)
    prepare_once(tmp_path / "set", never)


def test_an_empty_folder_may_be_given(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    prepare_once(tmp_path / "set", fill)
    assert names(tmp_path / "set") == [MARKER, "shards"]


@pytest.mark.parametrize("occupy", [Path.touch, lambda root: (root / "mine").mkdir(parents=True)])
def test_a_folder_that_holds_anything_else_is_never_touched(tmp_path: Path, occupy: Callable[[Path], None]) -> None:
    root = tmp_path / "set"
    occupy(root)
    with pytest.raises(DataError, match="name another folder") as refused:
        prepare_once(root, never)
    assert refused.value.where == str(root)
    assert root.is_file() or names(root) == ["mine"]


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        fill(folder)
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        prepare_once(tmp_path / "set", fail)
    assert names(tmp_path) == []


def test_another_node_that_is_first_wins_and_its_work_is_not_removed(tmp_path: Path) -> None:
    root = tmp_path / "set"
    elsewhere = tmp_path / "set.tmp-othernode-1"
    elsewhere.mkdir()

    def overtaken(folder: Path) -> None:
        fill(folder)
        (folder / "shards" / "a.tar").write_bytes(b"ours")
        root.mkdir()
        fill(root)

    prepare_once(root, overtaken)
    assert (root / "shards" / "a.tar").read_bytes() == b"data"
    assert names(tmp_path) == ["set", "set.tmp-othernode-1"]
