"""The file format of a shard's sidecar index, ``<shard>.tar.mmidx``.

Magic, uint64 xxh3_64 of all that follows, uint32 length of the header, JSON header, then little-endian arrays, each
aligned to 64 bytes:

=================  =========  ==================================================================
``sample_first``   uint32     first member of each sample, and the number of members (n + 1)
``member_offset``  uint64     first byte of each member's data in the archive
``member_size``    uint64     bytes of each member
``member_ext``     uint16     extension of each member, as a position in the header's ``extensions``
``key_end``        uint32     end of each sample's key in ``key_bytes``
``key_bytes``      uint8      the keys, UTF-8, end to end
``checksum``       uint64     xxh3_64 of each sample's span, from its first member's to its last member's last byte
``column:<name>``  uint32     one number a sample, in the order of the header's ``columns``
=================  =========  ==================================================================

The header's counts give every array's length and place, and what the arrays say is checked against the shard's length:
a sidecar that was accepted points nowhere outside of its shard.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

_MAGIC = b"MMIDX\x00\x02\x00"
_SEAL = slice(len(_MAGIC), len(_MAGIC) + 8)
_LENGTH = slice(_SEAL.stop, _SEAL.stop + 4)
_ALIGNMENT = 64
_BLOCK = 512
_COLUMN = "column:"


@dataclass(frozen=True)
class ShardInfo:
    """What a manifest records of a shard.

    Attributes:
        name: File name.
        samples: Number of samples.
        bytes: Length of the file.
        sha256: Of the file.
        totals: Sum of each column. Shards are equal whatever columns their index has.
    """

    name: str
    samples: int
    bytes: int
    sha256: str
    totals: Mapping[str, int] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Sidecar:
    """A sidecar's content; the arrays' names, types and lengths are those of the format."""

    info: ShardInfo
    extensions: tuple[str, ...]
    sample_first: NDArray[np.uint32]
    member_offset: NDArray[np.uint64]
    member_size: NDArray[np.uint64]
    member_ext: NDArray[np.uint16]
    key_end: NDArray[np.uint32]
    key_bytes: NDArray[np.uint8]
    checksum: NDArray[np.uint64]
    columns: Mapping[str, NDArray[np.uint32]]

    def to_bytes(self) -> bytes:
        """The file's content."""
        header = {
            "shard": asdict(self.info),
            "extensions": self.extensions,
            "members": len(self.member_offset),
            "key_bytes": len(self.key_bytes),
            "columns": tuple(self.columns),
        }
        text = json.dumps(header).encode()
        body = bytearray(len(text).to_bytes(4, "little") + text)
        for name, dtype, _ in _layout(self.info.samples, 0, 0, self.columns):
            body.extend(bytes(-(_LENGTH.start + len(body)) % _ALIGNMENT))
            array = vars(self)[name] if name in vars(self) else self.columns[name.removeprefix(_COLUMN)]
            body.extend(array.astype(dtype, copy=False).tobytes())
        return _MAGIC + xxhash.xxh3_64_digest(body)[::-1] + bytes(body)

    @classmethod
    def from_bytes(cls, data: bytes) -> Sidecar:
        """Reads and checks the file's content; the arrays are views of ``data``.

        Raises:
            ValueError: It is no sidecar, or damaged.
        """
        if data[: len(_MAGIC)] != _MAGIC:
            raise ValueError("not an index of this version")
        if xxhash.xxh3_64_digest(memoryview(data)[_LENGTH.start :])[::-1] != data[_SEAL]:
            raise ValueError("its checksum does not match")
        stop = _LENGTH.stop + int.from_bytes(data[_LENGTH], "little")
        header = _Header.parse(data[_LENGTH.stop : stop])
        arrays: dict[str, NDArray[Any]] = {}
        layout = _layout(header.info.samples, header.members, header.key_bytes, header.columns)
        for name, dtype, length in layout:
            start = stop + -stop % _ALIGNMENT
            stop = start + length * np.dtype(dtype).itemsize
            if stop > len(data):
                raise ValueError("truncated")
            arrays[name] = np.frombuffer(data, dtype, length, start)
        if stop != len(data):
            raise ValueError("too long")
        columns = {name: arrays.pop(_COLUMN + name) for name in header.columns}
        sidecar = cls(header.info, header.extensions, **arrays, columns=columns)
        sidecar._check()
        return sidecar

    def _check(self) -> None:
        """Raises a `ValueError` where the arrays contradict each other, or the shard's length."""
        members = len(self.member_offset)
        first = self.sample_first.astype(np.int64)
        if first[0] != 0 or first[-1] != members or (np.diff(first) < 1).any():
            raise ValueError("samples without members")
        key_end = np.concatenate([[0], self.key_end.astype(np.int64)])
        if key_end[-1] != len(self.key_bytes) or (np.diff(key_end) < 0).any():
            raise ValueError("keys out of order")
        length = np.uint64(self.info.bytes)
        if (self.member_size > length).any() or (self.member_offset > length - self.member_size).any():
            raise ValueError("members outside of the shard")
        headers = np.concatenate([np.zeros(1, np.uint64), self.member_offset + self.member_size])[:members]
        if (self.member_offset < headers + np.uint64(_BLOCK)).any():
            raise ValueError("members that overlap")
        member = np.repeat(np.arange(self.info.samples), np.diff(first)) * len(self.extensions) + self.member_ext
        member.sort()
        if (self.member_ext >= len(self.extensions)).any() or (member[1:] == member[:-1]).any():
            raise ValueError("unknown or repeated extensions")
        if {name: int(column.sum(dtype=np.uint64)) for name, column in self.columns.items()} != self.info.totals:
            raise ValueError("wrong totals")


@dataclass(frozen=True)
class _Header:
    info: ShardInfo
    extensions: tuple[str, ...]
    members: int
    key_bytes: int
    columns: tuple[str, ...]

    @classmethod
    def parse(cls, text: bytes) -> _Header:
        try:
            content = json.loads(text)
            info = ShardInfo(**content.pop("shard"))
            extensions, columns = tuple(content.pop("extensions")), tuple(content.pop("columns"))
            header = cls(info, extensions, columns=columns, **content)
            counts = (header.members, header.key_bytes, info.samples, info.bytes, *info.totals.values())
        except (TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(f"a header that cannot be read: {error}") from None
        names = (info.name, info.sha256, *extensions, *columns)
        if not all(type(count) is int and 0 <= count < 2**63 for count in counts):
            raise ValueError("a count that is none")
        if not all(type(name) is str for name in names) or len({*columns}) < len(columns):
            raise ValueError("a name that is none")
        return header


def _layout(samples: int, members: int, key_bytes: int, columns: Iterable[str]) -> Iterator[tuple[str, str, int]]:
    """Name, type and length of the arrays, in the file's order."""
    yield "sample_first", "<u4", samples + 1
    yield "member_offset", "<u8", members
    yield "member_size", "<u8", members
    yield "member_ext", "<u2", members
    yield "key_end", "<u4", samples
    yield "key_bytes", "|u1", key_bytes
    yield "checksum", "<u8", samples
    for column in columns:
        yield _COLUMN + column, "<u4", samples
