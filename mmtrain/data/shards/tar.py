"""Scan of a tar archive's headers: where every member's bytes lie.

Reads v7, USTAR, GNU (long names, base-256 sizes) and PAX archives, and finds in them what Python's `tarfile` (and thus
webdataset) finds; what is damaged, or means different things to different programs, is an error. Member names are data,
never paths.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from mmtrain.errors import DataError

_BLOCK = 512
_END = bytes(_BLOCK)
_REGULAR = (b"0", b"\0", b"7")
# Links, devices, directories and pipes: no data follows them, whatever their size field says.
_WITHOUT_DATA = (b"1", b"2", b"3", b"4", b"5", b"6")
_PAX = (b"x", b"X")
_EXTENDED = (b"L", b"K", b"g", *_PAX)
# Extended headers hold names and a few attributes; one that claims more would be read into memory whole.
_MAX_EXTENDED = 2**20
_MAX_NUMBER = 20  # digits
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")


class Member(NamedTuple):
    """A regular file of an archive: ``size`` bytes that start ``offset`` bytes into it."""

    name: str
    offset: int
    size: int


class Archive(Protocol):
    """Random access to the bytes of a file; ``read`` gives fewer than asked for where the file ends."""

    path: Path
    size: int

    def read(self, start: int, stop: int) -> bytes: ...


def scan(archive: Archive) -> Iterator[Member]:
    """Yields the regular files of an uncompressed tar archive in order.

    Raises:
        DataError: The archive is compressed, truncated or damaged; names the byte at fault.
    """
    position = 0
    # PAX records of a 'g' header hold for all members that follow, those of an 'x' header for the next one.
    shared: dict[str, str] = {}
    own: dict[str, str] = {}
    while (header := _header(archive, position)) is not None:
        kind = header[156:157]
        offset = position + _BLOCK
        if kind in _EXTENDED:
            stop = offset + _padded(_number(header[124:136], archive, position))
            records = _extended(archive, position, kind, stop)
            if kind == b"g":
                if own:
                    raise _error(archive, position, "damaged archive: a global header lies between a member's headers")
                shared |= records
            else:
                own = records | own  # of two that name the next member, `tarfile` follows the first
            position = stop
            continue
        if kind == b"S":
            raise _error(archive, position, "a sparse member is not supported")
        name = _name(header)
        if kind == b"\0" and header[:100].split(b"\0", 1)[0].endswith(b"/"):
            kind = b"5"  # a directory of the v7 format
        size = int(own["size"]) if "size" in own else _number(header[124:136], archive, position)
        held = 0 if kind in _WITHOUT_DATA else size
        _check_end(archive, position, offset + held)
        if kind in _REGULAR:
            yield Member(own.get("path", shared.get("path", name)), offset, size)
        own = {}
        position = offset + _padded(held)


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


def _header(archive: Archive, position: int) -> bytes | None:
    """The header at ``position``, or None where the archive ends."""
    header = archive.read(position, position + _BLOCK)
    if len(header) < _BLOCK:
        if position == 0 and header.startswith(_COMPRESSED):
            raise _compressed(archive.path)
        raise _truncated(archive, position, "the end-of-archive marker is missing")
    if header == _END:
        return None
    # The sum of all bytes, the checksum's own taken as blanks: an Adler-32 holds it, plus 1, in its lower half, if it
    # is less than 65521, which the sum of 256 bytes always is.
    total = (zlib.adler32(header[:256]) & 0xFFFF) + (zlib.adler32(header[256:]) & 0xFFFF) - 2
    expected = total - sum(header[148:156]) + 8 * ord(" ")
    try:
        intact = _octal(header[148:156]) == expected
    except ValueError:
        intact = False
    if not intact:
        if position == 0 and header.startswith(_COMPRESSED):
            raise _compressed(archive.path)
        raise _error(archive, position, "damaged archive: a header's checksum does not match")
    return header


def _extended(archive: Archive, position: int, kind: bytes, stop: int) -> dict[str, str]:
    """What a header that has no member of its own says of others."""
    start = position + _BLOCK
    if stop - start > _MAX_EXTENDED:
        reason = f"damaged archive: an extended header claims {stop - start} bytes, more than {_MAX_EXTENDED}"
        raise _error(archive, position, reason)
    _check_end(archive, position, stop)
    data = archive.read(start, stop)
    if kind == b"L":
        return {"path": _text(data.split(b"\0", 1)[0])}
    if kind == b"K":
        return {}
    try:
        records = _pax_records(data)
        if "size" in records and kind == b"g":
            raise ValueError("one size for all members")
    except ValueError as error:
        raise _error(archive, position, f"damaged archive: {error} in a PAX header") from None
    if any(key.startswith("GNU.sparse") for key in records):
        raise _error(archive, position, "a sparse member is not supported")
    return {key: value for key, value in records.items() if key in ("path", "size")}


def _pax_records(data: bytes) -> dict[str, str]:
    """Parses ``<length> <key>=<value>\\n`` records, where the length counts the whole record, up to the padding."""
    records = {}
    position = 0
    while position < len(data) and data[position]:
        blank = data.find(b" ", position, position + _MAX_NUMBER)
        digits = data[position : max(blank, position)]
        if not digits.isdigit():
            raise ValueError(f"a record without a length at byte {position}")
        stop = position + int(digits)
        equals = data.find(b"=", blank, stop)
        if equals <= blank + 1 or data[stop - 1 : stop] != b"\n":
            raise ValueError(f"a broken record at byte {position}")
        key, value = _text(data[blank + 1 : equals]), _text(data[equals + 1 : stop - 1])
        if key == "size" and not (value.isascii() and value.isdigit() and len(value) <= _MAX_NUMBER):
            raise ValueError(f"a size of {value[:40]!r}")
        records[key] = value.rstrip("/") if key == "path" else value
        position = stop
    return records


def _number(field: bytes, archive: Archive, position: int) -> int:
    if field[0] == 0x80:  # GNU base-256, for files of 8 GiB and more
        return int.from_bytes(field[1:], "big")
    try:
        return _octal(field)
    except ValueError:
        raise _error(archive, position, f"damaged archive: {field!r} is not an octal number") from None


def _octal(field: bytes) -> int:
    digits = field.split(b"\0", 1)[0].strip()
    if digits and not digits.isdigit():  # int() takes signs and underscores too
        raise ValueError
    return int(digits or b"0", 8)


def _name(header: bytes) -> str:
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0]
    return _text(prefix + b"/" + name if prefix else name)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _check_end(archive: Archive, position: int, end: int) -> None:
    if end > archive.size:
        raise _truncated(archive, position, f"a member ends at {end}, the file has {archive.size} bytes")


def _truncated(archive: Archive, position: int, reason: str) -> DataError:
    return _error(archive, position, f"truncated archive: {reason}")


def _error(archive: Archive, position: int, reason: str) -> DataError:
    return DataError(reason, where=f"{archive.path}, byte {position}", mend="copy or download the shard again")
