from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pairs import write_data_set, write_tar

import mmtrain
from mmtrain.data import Manifest, ShardReader, build_manifest, load_manifest, open_shards
from mmtrain.data.shards import build
from mmtrain.data.shards.build import find_shards, index_shards
from mmtrain.data.shards.index import index_path, write_index
from mmtrain.errors import DataError


def shards(folder: Path, count: int) -> list[Path]:
    paths = [write_tar(folder / f"{n}.tar", [(f"{n}.txt", b"1" * n)]) for n in range(count)]
    for path in paths:
        os.utime(path, ns=(0, 0))  # the index that follows within a tick of the clock is newer
    return paths


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the shards that are read."""
    names: list[str] = []

    def reading(shard: Path, columns: tuple[str, ...]) -> object:
        names.append(shard.name)
        return write_index(shard, columns)

    monkeypatch.setattr(build, "write_index", reading)
    return names


def test_indexed_shards_are_not_read_again(tmp_path: Path, read: list[str]) -> None:
    paths, out = shards(tmp_path, 3), tmp_path / "manifest.json"
    first = build_manifest(paths, out)
    assert read == ["0.tar", "1.tar", "2.tar"]
    index_path(paths[1]).unlink()
    seen: list[tuple[int, int]] = []
    assert build_manifest(paths, out, progress=lambda done, total: seen.append((done, total))) == first
    assert read[3:] == ["1.tar"] and seen == [(3, 3)]
    assert build_manifest(paths, out, force=True) == first
    assert read[4:] == ["0.tar", "1.tar", "2.tar"]


def test_a_new_column_has_the_shards_read_and_its_totals_stand_in_the_manifest(tmp_path: Path, read: list[str]) -> None:
    paths, out = shards(tmp_path, 3), tmp_path / "manifest.json"
    plain = build_manifest(paths, out)
    assert build_manifest(paths, out, columns=["text_length"]).fingerprint == plain.fingerprint
    assert len(read) == 6
    assert [shard.totals for shard in load_manifest(out).shards] == [{"text_length": n} for n in range(3)]
    build_manifest(paths, out)
    assert len(read) == 6, "an index with more columns than asked for serves"
    both = build_manifest(paths, out, columns=["width"])
    assert [dict(shard.totals) for shard in both.shards] == [{"width": 0, "text_length": n} for n in range(3)]


def test_an_unknown_column_is_told_before_anything_is_read(tmp_path: Path, read: list[str]) -> None:
    with pytest.raises(DataError, match="no column 'hight'"):
        build_manifest(shards(tmp_path, 2), tmp_path / "manifest.json", columns=["hight"])
    assert read == []


def test_processes_make_the_same_manifest_and_name_a_damaged_shard(tmp_path: Path) -> None:
    paths, out = shards(tmp_path, 4), tmp_path / "manifest.json"
    alone = build_manifest(paths, out, num_workers=1).fingerprint
    seen: list[tuple[int, int]] = []
    together = build_manifest(
        paths, out, num_workers=2, force=True, progress=lambda done, total: seen.append((done, total))
    )
    assert together.fingerprint == alone
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    paths[2].write_bytes(paths[2].read_bytes()[:600])
    with pytest.raises(DataError, match="end-of-archive marker is missing") as caught:
        build_manifest(paths, out, num_workers=2, force=True)
    assert caught.value.where is not None and caught.value.where.startswith(str(paths[2]))
    assert caught.value.mend


START = """
import sys
from pathlib import Path
from mmtrain.data import build_manifest
from mmtrain.data.shards import index

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    paths = sorted(folder.glob("*.tar"))
    build_manifest(paths, folder / "manifest.json", num_workers=2, progress=lambda *_: print("one", flush=True))
"""


def start_indexing(tmp_path: Path) -> tuple[subprocess.Popen[str], int]:
    """A program that indexes in two processes, when it has indexed its first of many shards; and how many they are."""
    members = [(f"{n}.bin", bytes(2**20)) for n in range(50)]
    first = write_tar(tmp_path / "000.tar", members)
    for number in range(1, 40):
        (tmp_path / f"{number:03d}.tar").hardlink_to(first)
    os.utime(first, ns=(0, 0))
    (tmp_path / "program.py").write_text(START)
    environment = os.environ | {"PYTHONPATH": str(Path(mmtrain.__file__).parents[1])}
    command = [sys.executable, str(tmp_path / "program.py"), str(tmp_path)]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "one\n"
    return process, 40


def workers_of(group: int) -> list[int]:
    """Processes of a group that run."""
    listed = subprocess.run(["ps", "-eo", "pid=,pgid=,stat="], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in listed.splitlines()]
    return [int(pid) for pid, pgid, state in rows if int(pgid) == group and not state.startswith("Z")]


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert is_so()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_ends_all_processes_and_leaves_whole_indexes(tmp_path: Path, number: int) -> None:
    process, count = start_indexing(tmp_path)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.kill()
    _, said = process.communicate(timeout=60)
    wait_until(lambda: not workers_of(process.pid))
    assert process.returncode != 0
    assert said.count("Traceback") <= 1, "workers are silent"
    written = sorted(tmp_path.glob("*.mmidx"))
    assert 1 <= len(written) < count
    assert not (tmp_path / "manifest.json").exists()
    known: list[int] = []
    build_manifest(sorted(tmp_path.glob("*.tar")), tmp_path / "manifest.json", progress=lambda n, _: known.append(n))
    assert known[0] == len(written) + 1, "every index that lies there is whole"


def test_a_folder_is_indexed_in_the_order_of_its_names(tmp_path: Path) -> None:
    for name in ("b.tar", "a.tar", "._a.tar", "c.txt"):
        write_tar(tmp_path / name, [(f"{name[0]}.txt", b"1")])
    manifest = index_shards(tmp_path)
    assert [shard.name for shard in manifest.shards] == ["a.tar", "b.tar"]
    assert open_shards(tmp_path) == manifest
    assert [ShardReader(manifest).read(n)["__key__"] for n in range(2)] == ["a", "b"]


def test_a_patterns_manifest_is_the_one_that_is_opened(tmp_path: Path) -> None:
    shards(tmp_path, 3)
    manifest = index_shards(tmp_path / "{0..1}.tar")
    assert manifest.path.name == "0-1.manifest.json"
    assert open_shards(tmp_path / "{0..1}.tar") == manifest


def test_a_folder_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        find_shards(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no shards"):
        index_shards(tmp_path)


def test_a_data_set_of_the_package_is_indexed_as_it_was(tmp_path: Path) -> None:
    manifest: Manifest = write_data_set(tmp_path)
    assert index_shards(tmp_path, columns=["width", "height", "text_length"]) == manifest
    totals = load_manifest(manifest.path).shards[0].totals
    assert 23 * 24 <= totals["width"] < 23 * 49
    assert totals["text_length"] == sum(len(f"picture {n}") for n in range(23))
