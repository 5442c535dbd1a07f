from __future__ import annotations

import os
import pickle
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from pairs import SHARD_SIZES, sample, write_data_set, write_tar

from mmtrain.data import Manifest, ShardIndex, ShardReader, build_manifest
from mmtrain.data.shards.index import index_path, write_index
from mmtrain.errors import DataError


def test_every_sample_is_read_by_its_number(data_set: Manifest) -> None:
    reader = ShardReader(data_set)
    for number in reversed(range(sum(SHARD_SIZES))):
        assert reader.read(number) == {"__key__": f"{number:05d}", **sample(number)}


def test_keys_and_places_are_told_without_reading(data_set: Manifest) -> None:
    reader = ShardReader(data_set)
    assert reader.key(np.int64(27)) == "00027"  # type: ignore[arg-type]
    assert reader.where(27) == f"{data_set.shard_path(1)}, key 00027"
    assert len(reader) == sum(SHARD_SIZES)


class EveryThird:
    """Of each shard, the samples 0, 3, 6 ..."""

    sizes = np.array([-(-size // 3) for size in SHARD_SIZES])

    def index(self, shard: int, position: int) -> int:
        return 3 * position


def test_selected_samples_are_numbered_anew(data_set: Manifest) -> None:
    reader = ShardReader(data_set, select=EveryThird())
    expected = [*range(0, 23, 3), *range(23, 54, 3), *range(54, 71, 3)]
    assert len(reader) == len(expected)
    assert [int(reader.read(number)["__key__"]) for number in range(len(reader))] == expected
    assert [int(reader.key(number)) for number in range(len(reader))] == expected


def test_threads_share_a_reader_that_keeps_one_file_open(data_set: Manifest) -> None:
    reader = ShardReader(data_set, max_open=1)
    rng = np.random.default_rng(0)

    def read_many(order: list[int]) -> bool:
        return all(reader.read(number)["txt"] == f"picture {number}".encode() for number in order)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read_many, [rng.permutation(71).tolist() for _ in range(24)]))


def test_a_process_forked_while_a_thread_opens_a_shard_is_not_stuck(data_set: Manifest) -> None:
    reader = ShardReader(data_set)
    reader._table._lock.acquire()  # as by a thread that does not live on in the child
    child = os.fork()
    if child == 0:
        os._exit(0 if reader.read(3)["__key__"] == "00003" else 1)
    for _ in range(200):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.05)
    else:
        os.kill(child, 9)
        os.waitpid(child, 0)
        pytest.fail("the child waits for a lock that no one holds")
    assert status == 0


def test_a_missing_shard_is_looked_for_once_in_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = write_data_set(tmp_path)
    shard = manifest.shard_path(1)
    away = shard.rename(tmp_path / "away")
    reader = ShardReader(manifest)
    for number in (23, 24, 53):
        with pytest.raises(DataError, match="a shard is missing"):
            reader.read(number)
    away.rename(shard)
    with pytest.raises(DataError, match="a shard is missing"):  # not looked for again so soon
        reader.read(23)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 61)
    assert reader.read(23)["__key__"] == "00023"


def test_few_files_stay_open(data_set: Manifest) -> None:
    reader = ShardReader(data_set, max_open=1)
    before = len(os.listdir("/proc/self/fd"))
    for number in (0, 70, 30, 1, 69):
        reader.read(number)
        assert len(os.listdir("/proc/self/fd")) == before + 1


def test_a_reader_may_be_pickled_and_forked(data_set: Manifest) -> None:
    reader = ShardReader(data_set)
    reader.read(3)
    assert pickle.loads(pickle.dumps(reader)).read(40) == reader.read(40)
    child = os.fork()
    if child == 0:
        os._exit(0 if all(reader.read(n)["txt"] == f"picture {n}".encode() for n in range(71)) else 1)
    assert all(reader.read(n)["txt"] == f"picture {n}".encode() for n in reversed(range(71)))
    assert os.waitpid(child, 0)[1] == 0


def truncate(shard: Path) -> None:
    os.truncate(shard, shard.stat().st_size // 2)


def remove(shard: Path) -> None:
    shard.unlink()


def replace(shard: Path) -> None:
    write_tar(shard, [("x.txt", b"another shard")])


def replace_and_index(shard: Path) -> None:
    size = shard.stat().st_size
    replace(shard)
    shard.write_bytes(shard.read_bytes().ljust(size, b"\0"))  # of the same length
    write_index(shard)


def remove_index(shard: Path) -> None:
    index_path(shard).unlink()


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (truncate, "truncated"),
        (remove, "a shard is missing"),
        (replace, "truncated: it has 10240 bytes"),
        (replace_and_index, "replaced"),
        (remove_index, "no index"),
    ],
)
def test_a_faulty_shard_is_named(tmp_path: Path, fault: Callable[[Path], None], reason: str) -> None:
    manifest = write_data_set(tmp_path)
    shard = manifest.shard_path(1)
    fault(shard)
    reader = ShardReader(manifest)
    reader.read(22)
    with pytest.raises(DataError, match=reason) as caught:
        reader.read(23)
    assert caught.value.where is not None
    assert caught.value.where.startswith(str(shard))
    assert caught.value.mend


@pytest.mark.parametrize("at", [0, 700, -1])
def test_a_flipped_bit_is_found_and_its_sample_named(tmp_path: Path, at: int) -> None:
    manifest = write_data_set(tmp_path)
    shard = manifest.shard_path(1)
    start, stop = ShardIndex(shard).span(4)
    data = bytearray(shard.read_bytes())
    data[start + at if at >= 0 else stop + at] ^= 4
    shard.write_bytes(data)
    reader = ShardReader(manifest)
    assert reader.read(26)["__key__"] == "00026"
    with pytest.raises(DataError, match="checksum") as caught:
        reader.read(27)
    assert caught.value.where == f"{shard}, key 00027"
    assert ShardReader(manifest, verify=False).read(27)["__key__"] == "00027"


def test_a_shard_truncated_while_open_is_named(tmp_path: Path) -> None:
    manifest = write_data_set(tmp_path)
    reader = ShardReader(manifest)
    reader.read(23)
    truncate(manifest.shard_path(1))
    with pytest.raises(DataError, match="truncated while in use") as caught:
        reader.read(53)
    assert caught.value.where == f"{manifest.shard_path(1)}, key 00053"


def test_empty_shards_are_stepped_over(tmp_path: Path) -> None:
    contents = ([], ["a", "b"], [], ["c"])
    paths = [
        write_tar(tmp_path / f"{n}.tar", [(f"{key}.txt", b"1") for key in keys]) for n, keys in enumerate(contents)
    ]
    reader = ShardReader(build_manifest(paths, tmp_path / "manifest.json"))
    assert [reader.read(number)["__key__"] for number in range(3)] == ["a", "b", "c"]
