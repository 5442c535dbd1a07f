"""The index of one shard: where each sample's members lie, what its bytes hash to, and its columns."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from mmtrain.data.shards.atomic import write_atomically
from mmtrain.data.shards.blocks import Blocks
from mmtrain.data.shards.columns import COLUMNS, RawSample, columns_named
from mmtrain.data.shards.members import Group, group
from mmtrain.data.shards.sidecar import ShardInfo, Sidecar
from mmtrain.data.shards.tar import refuse_compressed, scan
from mmtrain.errors import DataError, did_you_mean

SUFFIX = ".mmidx"


def index_path(shard: Path) -> Path:
    """The sidecar's path: ``a.tar`` -> ``a.tar.mmidx``."""
    return shard.with_name(shard.name + SUFFIX)


def write_index(shard: Path, columns: Iterable[str] = ()) -> ShardInfo:
    """Reads a shard, once, and writes its sidecar index.

    Args:
        shard: An uncompressed WebDataset archive.
        columns: Names of `mmtrain.data.shards.columns.COLUMNS` to store.

    Raises:
        DataError: The shard is missing, truncated, damaged, or holds a member twice; its folder cannot be written; or
            there is no such column.
    """
    functions = columns_named(columns)
    refuse_compressed(shard)
    if not shard.is_file():
        raise DataError("a shard is missing", where=str(shard), mend="copy it there, or mend the name of the shards")
    rows = _Rows()
    values = {name: array("Q") for name in functions}
    with _open(shard) as file:
        blocks = Blocks(shard, file)
        for sample in group(scan(blocks), shard):
            start, stop = sample.members[0][1].offset, sample.members[-1][1].offset + sample.members[-1][1].size
            rows.add(sample, blocks.xxh3(start, stop))
            if functions:
                raw = _raw(sample, start, blocks.read(start, stop))
                for name, function in functions.items():
                    values[name].append(function(raw))
        sha256 = blocks.sha256()
    sidecar = rows.sidecar(shard, blocks.size, sha256, values)
    write_atomically(index_path(shard), sidecar.to_bytes())
    return sidecar.info


def existing_index(shard: Path, columns: Iterable[str] = ()) -> ShardInfo | None:
    """What `write_index` would return, where a whole sidecar, newer than the shard and of its length, says it."""
    try:
        state, written = shard.stat(), index_path(shard).stat().st_mtime_ns
        index = ShardIndex(shard)
    except (OSError, DataError):
        return None
    # In one tick of the file system's clock, the shard may have been written after its index.
    is_of_shard = written > state.st_mtime_ns and (index.info.name, index.info.bytes) == (shard.name, state.st_size)
    return index.info if is_of_shard and set(columns) <= set(index.columns) else None


class ShardIndex:
    """A sidecar index in memory: some 50 bytes a sample.

    Args:
        shard: The archive; its index lies beside it.

    Raises:
        DataError: There is no index, or it is damaged.
    """

    def __init__(self, shard: Path) -> None:
        self._load(index_path(shard))

    @classmethod
    def read(cls, index_file: Path) -> ShardIndex:
        """An index that lies elsewhere than its shard, by its own path."""
        index = cls.__new__(cls)
        index._load(index_file)
        return index

    def _load(self, path: Path) -> None:
        mend = "delete it and index the data set again: python -m mmtrain data index FOLDER"
        try:
            sidecar = Sidecar.from_bytes(path.read_bytes())
        except OSError as error:
            reason = "has no index" if isinstance(error, FileNotFoundError) else f"has an unreadable index: {error}"
            raise DataError(f"a shard {reason}", where=str(path), mend=mend) from None
        except ValueError as error:
            raise DataError(f"the index of a shard is damaged: {error}", where=str(path), mend=mend) from None
        self.info = sidecar.info
        self._sidecar = sidecar
        # An element of a memoryview is read twice as fast as an array's, and takes none of a list's memory.
        self._first = sidecar.sample_first.data
        self._offset = sidecar.member_offset.data
        self._size = sidecar.member_size.data
        self._places = (self._first, self._offset, self._size, sidecar.member_ext.data, sidecar.extensions)
        self._key_end = sidecar.key_end.data
        self._keys = sidecar.key_bytes.tobytes()
        self._checksum = sidecar.checksum.data

    def __len__(self) -> int:
        return self.info.samples

    @property
    def members(self) -> int:
        """Members of all samples."""
        return len(self._offset)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(self._sidecar.columns)

    def key(self, sample: int) -> str:
        """The sample's key, as webdataset's ``__key__``."""
        start = self._key_end[sample - 1] if sample else 0
        return self._keys[start : self._key_end[sample]].decode("utf-8", "surrogateescape")

    def span(self, sample: int) -> tuple[int, int]:
        """First byte and end of the sample in the archive; its members lie in between."""
        first, offset = self._first, self._offset
        last = first[sample + 1] - 1
        return offset[first[sample]], offset[last] + self._size[last]

    def spans(self) -> NDArray[np.int64]:
        """`span` of all samples, shape ``(samples, 2)``."""
        first = self._sidecar.sample_first
        offset, size = self._sidecar.member_offset, self._sidecar.member_size
        return np.stack([offset[first[:-1]], (offset + size)[first[1:] - 1]], 1).astype(np.int64)

    def checksum(self, sample: int) -> int:
        """xxh3_64 of the sample's span."""
        return self._checksum[sample]

    def fetch(self, descriptor: int, sample: int, *, verify: bool = True) -> RawSample:
        """Reads a sample: one system call, and one function, for this is what loading comes down to.

        Args:
            descriptor: Of the shard, open for reading. Its position is neither used nor moved.
            sample: Number of the sample in the shard.
            verify: Whether the bytes are compared with the checksum.

        Raises:
            OSError: They cannot be read.
            ValueError: There are fewer than there were, or they changed.
        """
        first, offset, size, extension, extensions = self._places
        member, end = first[sample], first[sample + 1]
        start = offset[member]
        length = offset[end - 1] + size[end - 1] - start
        data = os.pread(descriptor, length, start)
        if len(data) != length:
            left = f"{len(data)} of {length} bytes of a sample are left"
            raise ValueError(f"the shard was truncated while in use: {left}")
        if verify and xxh3_64_intdigest(data) != self._checksum[sample]:
            reason = "a sample's bytes differ from its checksum in the index"
            raise ValueError(f"{reason} (a damaged disk or copy, or a replaced shard)")
        out: RawSample = {"__key__": self.key(sample)}
        for number in range(member, end):
            begin = offset[number] - start
            out[extensions[extension[number]]] = data[begin : begin + size[number]]
        return out

    def column(self, name: str) -> NDArray[np.uint32]:
        """One number a sample, shape ``(samples,)``.

        Raises:
            DataError: The index was built without this column.
        """
        if name in self._sidecar.columns:
            return self._sidecar.columns[name]
        known = name in COLUMNS
        mend = f"python -m mmtrain data index --columns {name} SHARDS" if known else did_you_mean(name, COLUMNS)
        raise DataError(f"the index has no column {name!r}", where=self.info.name, mend=mend)


class _Rows:
    """The arrays of a sidecar while they grow."""

    def __init__(self) -> None:
        self.first, self.offset, self.size = array("Q", [0]), array("Q"), array("Q")
        self.extension, self.key_end, self.checksum = array("Q"), array("Q"), array("Q")
        self.keys = bytearray()
        self.extensions: dict[str, int] = {}

    def add(self, sample: Group, checksum: int) -> None:
        for extension, member in sample.members:
            self.offset.append(member.offset)
            self.size.append(member.size)
            self.extension.append(self.extensions.setdefault(extension, len(self.extensions)))
        self.first.append(len(self.offset))
        self.keys += sample.key.encode("utf-8", "surrogateescape")
        self.key_end.append(len(self.keys))
        self.checksum.append(checksum)

    def sidecar(self, shard: Path, length: int, sha256: str, columns: dict[str, array[int]]) -> Sidecar:
        totals = {name: sum(column) for name, column in columns.items()}
        try:
            return Sidecar(
                ShardInfo(shard.name, len(self.key_end), length, sha256, totals),
                tuple(self.extensions),
                sample_first=_narrow(self.first, np.uint32, "members"),
                member_offset=_narrow(self.offset, np.uint64, "bytes"),
                member_size=_narrow(self.size, np.uint64, "bytes"),
                member_ext=_narrow(self.extension, np.uint16, "different extensions"),
                key_end=_narrow(self.key_end, np.uint32, "bytes of keys"),
                key_bytes=np.frombuffer(bytes(self.keys), np.uint8),
                checksum=_narrow(self.checksum, np.uint64, "checksums"),
                columns={name: _narrow(column, np.uint32, name) for name, column in columns.items()},
            )
        except OverflowError as error:
            mend = "cut the shard into smaller ones (some thousand samples each)"
            raise DataError(f"a shard has too many {error}", where=str(shard), mend=mend) from None


def _raw(sample: Group, start: int, span: bytes) -> RawSample:
    raw: RawSample = {"__key__": sample.key}
    for extension, (_, offset, size) in sample.members:
        raw[extension] = span[offset - start : offset - start + size]
    return raw


def _narrow(values: array[int], dtype: type[np.unsignedinteger], what: str) -> NDArray[Any]:
    wide = np.frombuffer(values, np.uint64)
    if len(wide) and int(wide.max()) > np.iinfo(dtype).max:
        raise OverflowError(what)
    return wide.astype(dtype)


def _open(shard: Path) -> BinaryIO:
    try:
        return shard.open("rb", buffering=0)
    except OSError as error:
        reason = f"a shard cannot be opened: {error.strerror}"
        raise DataError(reason, where=str(shard), mend="make it readable") from None
