from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from conftest import write_tar

from mmtrain.data import ShardIndex, ShardReader, build_manifest
from mmtrain.data.index import index_path, write_index
from mmtrain.errors import DataError

LONG = "d" * 60 + "/" + "e" * 80
ODD = [
    ("__meta__/info.json", b"{}"),
    ("__skipped__", b"x"),
    ("dir/a.JPG", b"1"),
    ("dir/a.seg.png", b"22"),
    ("dir/b.jpg", b""),
    ("dir/b.cls", b"7"),
    ("noext", b"x"),
    (".hidden.jpg", b"h"),
    ("dir.v1/c.txt", b"c"),
    ("../../escape.txt", b"names are not paths"),
    (LONG + ".txt", b"long"),
    (LONG + ".cls", b"3"),
]


def by_webdataset(path: Path) -> list[dict[str, Any]]:
    samples = webdataset.WebDataset([str(path)], shardshuffle=False, empty_check=False)
    return [
        {name: value for name, value in sample.items() if name not in ("__url__", "__local_path__")}
        for sample in samples
    ]


def by_us(path: Path) -> list[dict[str, Any]]:
    reader = ShardReader(build_manifest([path], path.parent / "manifest.json"))
    return [reader.read(sample) for sample in range(len(reader))]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_samples_are_those_that_webdataset_yields(tmp_path: Path, format: int) -> None:
    path = write_tar(tmp_path / "odd.tar", ODD, format)
    assert by_us(path) == by_webdataset(path)
    assert [sample["__key__"] for sample in by_us(path)] == ["dir/a", "dir/b", "dir.v1/c", "../../escape", LONG]


def test_shards_of_webdatasets_writer_are_read(tmp_path: Path) -> None:
    path = tmp_path / "writer.tar"
    with webdataset.TarWriter(str(path)) as writer:
        for number in range(5):
            writer.write({"__key__": f"k{number:03d}", "txt": f"caption {number}", "npy": np.arange(number + 1)})
    assert by_us(path) == by_webdataset(path)
    assert len(by_us(path)) == 5


def test_columns_are_computed_from_samples_and_stored(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [(f"{n}.txt", b"x" * n) for n in (3, 1, 70_000)])
    write_index(path, columns={"length": lambda raw: len(raw["txt"])})
    index = ShardIndex(path)
    np.testing.assert_array_equal(index.column("length"), [3, 1, 70_000])
    with pytest.raises(DataError, match="no column 'width'"):
        index.column("width")


def test_two_members_of_one_name_are_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [("a.jpg", b"1"), ("a.JPG", b"2")])
    with pytest.raises(DataError, match=r"two members \.jpg") as caught:
        write_index(path)
    assert f"{path}, key a" in str(caught.value)


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
    with tarfile.open(fileobj=io.BytesIO(), mode="w"):
        path.write_bytes(bytes(10240))
    assert write_index(path).samples == 0
    assert len(ShardIndex(path)) == 0
