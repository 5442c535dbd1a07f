from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from archives import empty_members
from pairs import write_tar

from mmtrain.data import ShardIndex
from mmtrain.data.shards.index import existing_index, index_path, write_index
from mmtrain.errors import DataError


def test_an_index_lies_anywhere(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [("a.txt", b"1"), ("b.txt", b"22")])
    info = write_index(path)
    elsewhere = index_path(path).rename(tmp_path / "0123.index")
    index = ShardIndex.read(elsewhere)
    assert (index.info, len(index), index.members, index.key(1)) == (info, 2, 2, "b")
    assert index.spans().tolist() == [list(index.span(0)), list(index.span(1))] == [[512, 513], [1536, 1538]]


def test_columns_are_computed_from_samples_and_stored(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [(f"{n}.txt", b"x" * n) for n in (3, 1, 70_000)])
    info = write_index(path, ["text_length", "num_tokens"])
    index = ShardIndex(path)
    np.testing.assert_array_equal(index.column("text_length"), [3, 1, 70_000])
    assert index.columns == ("text_length", "num_tokens")
    assert info.totals == index.info.totals == {"text_length": 70_004, "num_tokens": 0}
    with pytest.raises(DataError, match="no column 'width'") as caught:
        index.column("width")
    assert caught.value.mend == "python -m mmtrain data index --columns width SHARDS"


def test_a_column_that_there_is_not_is_told_the_nearest(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [("a.txt", b"1")])
    with pytest.raises(DataError, match="no column 'widht'") as caught:
        write_index(path, ["widht"])
    assert caught.value.mend == "did you mean 'width'?"
    assert not index_path(path).exists()


def test_two_members_of_one_name_are_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [("a.jpg", b"1"), ("a.JPG", b"2")])
    with pytest.raises(DataError, match=r"two members \.jpg") as caught:
        write_index(path)
    assert f"{path}, key a" in str(caught.value)


def test_more_extensions_than_the_format_can_tell_apart_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(empty_members(f"{n}.{n}" for n in range(2**16 + 1)))
    with pytest.raises(DataError, match="too many different extensions"):
        write_index(path)


def test_a_failed_write_leaves_the_old_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tar(tmp_path / "a.tar", [("a.txt", b"1")])
    write_index(path)
    before = index_path(path).read_bytes()
    write_tar(path, [("a.txt", b"1"), ("b.txt", b"2")])

    def no_space(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(DataError, match="No space left"):
        write_index(path)
    assert index_path(path).read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.tar", "a.tar.mmidx"]


def test_an_interrupted_write_leaves_the_old_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tar(tmp_path / "a.tar", [("a.txt", b"1")])
    write_index(path)
    before = index_path(path).read_bytes()

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_index(path)
    assert index_path(path).read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.tar", "a.tar.mmidx"]


@pytest.mark.parametrize("keep", [0, 6, 40, -8])
def test_a_damaged_index_names_itself(tmp_path: Path, keep: int) -> None:
    path = write_tar(tmp_path / "a.tar", [("a.txt", b"1")])
    write_index(path)
    index_path(path).write_bytes(index_path(path).read_bytes()[:keep])
    with pytest.raises(DataError, match="damaged") as caught:
        ShardIndex(path)
    assert caught.value.where == str(index_path(path))


def test_an_empty_shard_has_no_samples(tmp_path: Path) -> None:
    path = tmp_path / "empty.tar"
    path.write_bytes(bytes(10240))
    assert write_index(path, ["width"]).samples == 0
    assert len(ShardIndex(path)) == 0
    assert ShardIndex(path).spans().shape == (0, 2)


def touch_shard(shard: Path) -> None:
    later = index_path(shard).stat().st_mtime_ns
    os.utime(shard, ns=(later, later))


def lengthen_shard(shard: Path) -> None:
    early = shard.stat()
    shard.write_bytes(shard.read_bytes() + bytes(512))
    os.utime(shard, ns=(early.st_atime_ns, early.st_mtime_ns))


def damage_index(shard: Path) -> None:
    data = bytearray(index_path(shard).read_bytes())
    data[-1] ^= 1
    index_path(shard).write_bytes(data)


def index_of_another(shard: Path) -> None:
    other = write_tar(shard.with_name("b.tar"), [("b.txt", b"2")])
    write_index(other)
    index_path(other).rename(index_path(shard))


@pytest.mark.parametrize("change", [touch_shard, lengthen_shard, damage_index, index_of_another, Path.unlink])
def test_an_index_holds_only_for_the_shard_that_it_was_made_of(tmp_path: Path, change: Callable[[Path], None]) -> None:
    path = write_tar(tmp_path / "a.tar", [("a.txt", b"1")])
    os.utime(path, ns=(0, 0))
    info = write_index(path, ["width"])
    assert existing_index(path) == existing_index(path, ["width"]) == info
    assert existing_index(path, ["width", "height"]) is None
    change(path)
    assert existing_index(path) is None


def test_an_index_is_small_and_opens_in_milliseconds(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(empty_members(f"{n:09d}.{extension}" for n in range(10_000) for extension in ("jpg", "txt")))
    write_index(path)
    assert index_path(path).stat().st_size < 10_000 * (25 + 2 * 18) + 1024
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        index = ShardIndex(path)
        assert index.key(9_999) == "000009999"
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.05, "about 1 ms"
