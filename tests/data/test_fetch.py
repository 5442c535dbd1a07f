from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import SHARD_SIZES, sample, write_data_set, write_tar

from mmtrain.data import Manifest, ShardIndex, ShardReader, build_manifest
from mmtrain.data.index import index_path, write_index
from mmtrain.errors import DataError


def test_every_sample_is_read_by_its_number(data_set: Manifest) -> None:
    reader = ShardReader(data_set)
    for number in reversed(range(sum(SHARD_SIZES))):
        assert reader.read(number) == {"__key__": f"{number:05d}", **sample(number)}


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
