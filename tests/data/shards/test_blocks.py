from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import xxhash

from mmtrain.data.shards import blocks
from mmtrain.data.shards.blocks import Blocks
from mmtrain.errors import DataError


@pytest.fixture
def content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    monkeypatch.setattr(blocks, "_BLOCK", 1024)
    data = np.random.default_rng(0).bytes(10_000)
    (tmp_path / "a").write_bytes(data)
    return data


@pytest.mark.parametrize(("start", "stop"), [(0, 10), (1000, 1100), (500, 9000), (9990, 20_000), (10_000, 10_512)])
def test_bytes_are_given_wherever_they_lie(tmp_path: Path, content: bytes, start: int, stop: int) -> None:
    with (tmp_path / "a").open("rb") as file:
        source = Blocks(tmp_path / "a", file)
        for first in (start, 0, start):  # forwards, backwards, and again
            assert source.read(first, first + stop - start) == content[first : first + stop - start]
            end = min(first + stop - start, len(content))
            assert source.xxh3(first, end) == xxhash.xxh3_64_intdigest(content[first:end])
        assert source.sha256() == hashlib.sha256(content).hexdigest()


def test_a_file_that_is_read_in_order_is_read_once(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[int] = []
    pread = os.pread

    def counting(descriptor: int, length: int, position: int) -> bytes:
        lengths.append(length)
        return pread(descriptor, length, position)

    monkeypatch.setattr(os, "pread", counting)
    with (tmp_path / "a").open("rb") as file:
        source = Blocks(tmp_path / "a", file)
        for start in range(0, len(content), 128):
            source.read(start, start + 128)
            source.xxh3(start, min(start + 128, len(content)))
        source.sha256()
    assert lengths == [1024] * 9 + [10_000 - 9 * 1024]


def test_a_file_that_shrinks_while_it_is_read_names_itself(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a"
    with path.open("rb") as file:
        source = Blocks(path, file)
        source.read(0, 512)
        os.truncate(path, 3000)
        with pytest.raises(DataError, match="shrank") as caught:
            source.sha256()
    assert caught.value.where == f"{path}, byte 3000"
