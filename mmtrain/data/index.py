"""Sidecar index of a WebDataset shard: ``<shard>.tar.mmidx`` says where each sample lies and what its bytes hash to.

Layout: magic, uint32 length of the header, JSON header, then little-endian arrays, each aligned to 64 bytes:

=================  =========  ==================================================================
``sample_first``   uint32     first member of each sample, and the number of members (n + 1)
``member_offset``  uint64     first byte of each member's data in the archive
``member_size``    uint64     bytes of each member
``member_ext``     uint16     extension of each member, as a position in the header's ``extensions``
``key_end``        uint32     end of each sample's key in ``key_bytes``
``key_bytes``      uint8      the keys, UTF-8, end to end
``checksum``       uint64     xxh3_64 of each sample's span, from its first member's to its last member's last byte
``column:<name>``  uint32     one number a sample, if asked for
=================  =========  ==================================================================

Samples are grouped as webdataset groups them, so that both see the same keys, extensions and order.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from mmtrain.data.tar import refuse_compressed, scan
from mmtrain.errors import DataError

SUFFIX = ".mmidx"
_MAGIC = b"MMIDX\x00\x01\x00"
_ALIGNMENT = 64
_KEY_AND_EXTENSION = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")
_META = re.compile(r"__[^/]*__($|/)")

RawSample = dict[str, Any]
"""``__key__`` (str) and one ``bytes`` for each extension."""


@dataclass(frozen=True)
class ShardInfo:
    """What a manifest records of a shard: its file name, number of samples, length in bytes, and sha256."""

    name: str
    samples: int
    bytes: int
    sha256: str


def index_path(shard: Path) -> Path:
    """The sidecar's path: ``a.tar`` -> ``a.tar.mmidx``."""
    return shard.with_name(shard.name + SUFFIX)


def write_index(shard: Path, columns: Mapping[str, Callable[[RawSample], int]] | None = None) -> ShardInfo:
    """Scans a shard and writes its sidecar index.

    Args:
        shard: An uncompressed WebDataset archive.
        columns: Functions of the raw sample whose values are stored as uint32 columns, by name.

    Raises:
        DataError: The shard is missing, truncated, damaged, or holds a member twice; or its folder cannot be written.
    """
    refuse_compressed(shard)
    if not shard.is_file():
        raise DataError("a shard is missing", where=str(shard), mend="copy it there, or mend the name of the shards")
    members = _Members.scan(shard)
    checksums: list[int] = []
    values: dict[str, list[int]] = {name: [] for name in columns or {}}
    with shard.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        for sample in range(len(members.keys)):
            start, stop = members.span(sample)
            data = os.pread(file.fileno(), stop - start, start)
            checksums.append(xxhash.xxh3_64_intdigest(data))
            for name, column in (columns or {}).items():
                values[name].append(column(members.cut(sample, data)))
        info = ShardInfo(shard.name, len(members.keys), os.fstat(file.fileno()).st_size, sha256)
    arrays = members.arrays() | {"checksum": np.array(checksums, "<u8")}
    arrays |= {f"column:{name}": np.array(column, "<u4") for name, column in values.items()}
    header = {"shard": vars(info), "extensions": members.extensions}
    write_atomically(index_path(shard), _pack(header, arrays))
    return info


class ShardIndex:
    """A sidecar index in memory: some 50 bytes a sample.

    Raises:
        DataError: There is no index beside the shard, or it is damaged.
    """

    def __init__(self, shard: Path) -> None:
        path = index_path(shard)
        mend = "delete it, and the manifest.json beside it, and index the data set again"
        try:
            header, self._arrays = _unpack(np.frombuffer(path.read_bytes(), np.uint8))
            self.info = ShardInfo(**header["shard"])
            self._members = _Members.from_arrays(header["extensions"], self._arrays)
            self._checksum = self._arrays["checksum"]
        except FileNotFoundError:
            raise DataError("a shard has no index", where=str(path), mend=mend) from None
        except (ValueError, KeyError, TypeError):
            raise DataError("the index of a shard is damaged", where=str(path), mend=mend) from None

    def __len__(self) -> int:
        return self.info.samples

    def key(self, sample: int) -> str:
        """The sample's key, as webdataset's ``__key__``."""
        return self._members.keys[sample]

    def span(self, sample: int) -> tuple[int, int]:
        """First byte and end of the sample in the archive; its members lie in between."""
        return self._members.span(sample)

    def checksum(self, sample: int) -> int:
        """xxh3_64 of the sample's span."""
        return int(self._checksum[sample])

    def cut(self, sample: int, span: bytes) -> RawSample:
        """Cuts the bytes of the sample's span into its members."""
        return self._members.cut(sample, span)

    def column(self, name: str) -> NDArray[np.uint32]:
        """One number a sample, shape ``(samples,)``.

        Raises:
            DataError: The index was built without this column.
        """
        if f"column:{name}" not in self._arrays:
            raise DataError(
                f"the index has no column {name!r}", where=self.info.name, mend="index the data set with it"
            )
        return self._arrays[f"column:{name}"]


@dataclass
class _Members:
    """Where the members of a shard's samples lie. Lists: their elements are read five times faster than an array's."""

    keys: list[str] = field(default_factory=list)
    first: list[int] = field(default_factory=list)
    offset: list[int] = field(default_factory=list)
    size: list[int] = field(default_factory=list)
    extension: list[int] = field(default_factory=list)
    extensions: list[str] = field(default_factory=list)

    @classmethod
    def scan(cls, shard: Path) -> _Members:
        out = cls()
        seen: set[str] = set()
        for member in scan(shard):
            match = _KEY_AND_EXTENSION.match(member.name)
            if match is None or _META.match(member.name):
                continue
            key, extension = match[1], match[2].lower()
            if not out.keys or out.keys[-1] != key:
                out.keys.append(key)
                out.first.append(len(out.offset))
                seen = set()
            if extension in seen:
                where = f"{shard}, key {key}, byte {member.offset}"
                mend = "write each member of a sample once, and give neighbouring samples different keys"
                raise DataError(f"a sample holds two members .{extension}", where=where, mend=mend)
            seen.add(extension)
            if extension not in out.extensions:
                out.extensions.append(extension)
            out.offset.append(member.offset)
            out.size.append(member.size)
            out.extension.append(out.extensions.index(extension))
        out.first.append(len(out.offset))
        return out

    @classmethod
    def from_arrays(cls, extensions: list[str], arrays: Mapping[str, NDArray[Any]]) -> _Members:
        ends = arrays["key_end"].tolist()
        blob = arrays["key_bytes"].tobytes()
        keys = [blob[a:b].decode("utf-8", "surrogateescape") for a, b in zip([0, *ends], ends, strict=False)]
        first, offset, size, extension = (
            arrays[name].tolist() for name in ("sample_first", "member_offset", "member_size", "member_ext")
        )
        return cls(keys, first, offset, size, extension, extensions)

    def arrays(self) -> dict[str, NDArray[Any]]:
        keys = [key.encode("utf-8", "surrogateescape") for key in self.keys]
        return {
            "sample_first": np.array(self.first, "<u4"),
            "member_offset": np.array(self.offset, "<u8"),
            "member_size": np.array(self.size, "<u8"),
            "member_ext": np.array(self.extension, "<u2"),
            "key_end": np.cumsum([len(key) for key in keys]).astype("<u4"),
            "key_bytes": np.frombuffer(b"".join(keys), "u1"),
        }

    def span(self, sample: int) -> tuple[int, int]:
        last = self.first[sample + 1] - 1
        return self.offset[self.first[sample]], self.offset[last] + self.size[last]

    def cut(self, sample: int, span: bytes) -> RawSample:
        base = self.offset[self.first[sample]]
        out: RawSample = {"__key__": self.keys[sample]}
        for member in range(self.first[sample], self.first[sample + 1]):
            start = self.offset[member] - base
            out[self.extensions[self.extension[member]]] = span[start : start + self.size[member]]
        return out


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file so that a reader, or a crash, finds the old content or the new, never a part.

    Raises:
        DataError: The folder cannot be written.
    """
    beside = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        mend = "make the folder writable, or index a copy of the shards in a folder that is"
        raise DataError(f"the file cannot be written: {error.strerror}", where=str(path), mend=mend) from None


def _align(position: int) -> int:
    return -(-position // _ALIGNMENT) * _ALIGNMENT


def _pack(header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> bytes:
    layout: dict[str, tuple[str, int, int]] = {}
    body = bytearray()
    for name, array in arrays.items():
        body.extend(bytes(_align(len(body)) - len(body)))
        layout[name] = (array.dtype.str, len(array), len(body))
        body.extend(array.tobytes())
    text = json.dumps({**header, "arrays": layout}).encode()
    head = _MAGIC + len(text).to_bytes(4, "little") + text
    return head + bytes(_align(len(head)) - len(head)) + bytes(body)


def _unpack(data: NDArray[np.uint8]) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    start = len(_MAGIC) + 4
    if data[: len(_MAGIC)].tobytes() != _MAGIC:
        raise ValueError("not an index")
    stop = start + int.from_bytes(data[len(_MAGIC) : start].tobytes(), "little")
    header = json.loads(data[start:stop].tobytes())
    arrays = {}
    for name, (dtype, length, position) in header["arrays"].items():
        begin = _align(stop) + position
        arrays[name] = data[begin : begin + length * np.dtype(dtype).itemsize].view(dtype)
        if len(arrays[name]) != length:
            raise ValueError("truncated index")
    return header, arrays
