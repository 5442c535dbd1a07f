"""Header-only scan of a tar archive: where every member's bytes lie, without reading them.

Reads USTAR, GNU (long names, base-256 sizes) and PAX headers. Member names are data, never paths.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mmtrain.errors import DataError

_BLOCK = 512
_REGULAR = (b"0", b"\0", b"7")
# Links, devices, directories and pipes: no data follows them, whatever their size field says.
_WITHOUT_DATA = (b"1", b"2", b"3", b"4", b"5", b"6")


class Member(NamedTuple):
    """A regular file of an archive: ``size`` bytes that start ``offset`` bytes into it."""

    name: str
    offset: int
    size: int


def scan(path: Path) -> Iterator[Member]:
    """Yields the regular files of an uncompressed tar archive in order.

    Raises:
        DataError: The archive is compressed, truncated or damaged; names the byte at fault.
    """
    refuse_compressed(path)
    with path.open("rb") as file:
        yield from _Scanner(path, file.fileno())


def refuse_compressed(path: Path) -> None:
    """Raises a `DataError` for an archive that its name says is compressed."""
    if path.suffix in {".gz", ".tgz", ".bz2", ".xz", ".zst"}:
        raise _compressed(path)


def _compressed(path: Path) -> DataError:
    return DataError(
        "a compressed archive cannot be read at random",
        where=str(path),
        mend="store the shard as a plain .tar (gunzip it): images inside are compressed already",
    )


class _Scanner:
    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor
        self.file_size = os.fstat(descriptor).st_size

    def __iter__(self) -> Iterator[Member]:
        position = 0
        # PAX records of a 'g' header hold for all members that follow, those of an 'x' header for the next one.
        shared: dict[str, str] = {}
        own: dict[str, str] = {}
        while (header := self._header(position)) is not None:
            kind = header[156:157]
            records = shared | own
            if any(key.startswith("GNU.sparse") for key in records) or kind == b"S":
                raise self._error("a sparse member is not supported", position)
            size = int(records["size"]) if "size" in records else self._number(header[124:136], position)
            offset = position + _BLOCK
            held = 0 if kind in _WITHOUT_DATA else size
            if offset + held > self.file_size:
                reason = f"a member ends at {offset + held}, the file has {self.file_size} bytes"
                raise self._truncated(position, reason)
            position = offset + -(-held // _BLOCK) * _BLOCK
            if kind == b"L":
                own["path"] = _text(os.pread(self.descriptor, size, offset).split(b"\0", 1)[0])
            elif kind == b"x":
                own |= _pax_records(os.pread(self.descriptor, size, offset))
            elif kind == b"g":
                shared |= _pax_records(os.pread(self.descriptor, size, offset))
            elif kind != b"K":
                name = records.get("path") or _header_name(header)
                own = {}
                if kind in _REGULAR and not name.endswith("/"):
                    yield Member(name, offset, size)

    def _header(self, position: int) -> bytes | None:
        """The header at ``position``, or None where the archive ends."""
        header = os.pread(self.descriptor, _BLOCK, position)
        if position == 0 and header[:2] == b"\x1f\x8b":
            raise _compressed(self.path)
        if len(header) < _BLOCK:
            raise self._truncated(position, "the end-of-archive marker is missing")
        if header.count(0) == _BLOCK:
            return None
        expected = self._number(header[148:156], position)
        if sum(header[:148]) + sum(header[156:]) + 8 * ord(" ") != expected:
            raise self._error("damaged archive: a header's checksum does not match", position)
        return header

    def _number(self, field: bytes, position: int) -> int:
        if field[0] & 0x80:  # GNU base-256, for files of 8 GiB and more
            return int.from_bytes(field[1:], "big")
        digits = field.split(b"\0", 1)[0].strip()
        try:
            return int(digits or b"0", 8)
        except ValueError:
            raise self._error(f"damaged archive: {digits!r} is not an octal number", position) from None

    def _truncated(self, position: int, reason: str) -> DataError:
        return self._error(f"truncated archive: {reason}", position)

    def _error(self, reason: str, position: int) -> DataError:
        return DataError(reason, where=f"{self.path}, byte {position}", mend="copy or download the shard again")


def _header_name(header: bytes) -> str:
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0]
    is_ustar = header[257:265] == b"ustar\x0000"  # GNU archives use the prefix field for other things
    return _text(prefix + b"/" + name if is_ustar and prefix else name)


def _pax_records(data: bytes) -> dict[str, str]:
    """Parses ``<length> <key>=<value>\\n`` records, where the length counts the whole record."""
    records = {}
    position = 0
    while position < len(data) and data[position]:
        length, _, _ = data[position:].partition(b" ")
        key, _, value = data[position + len(length) + 1 : position + int(length) - 1].partition(b"=")
        records[_text(key)] = _text(value)
        position += int(length)
    return records


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
