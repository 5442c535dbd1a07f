"""Archives of every format, small and odd, and what is true of them by Python's ``tarfile``."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from mmtrain.data.shards.blocks import Blocks
from mmtrain.data.shards.tar import Member, scan

BLOCK = 512
FORMATS = {"v7": None, "ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
LONG_100 = "d" * 60 + "/" + "e" * 80
LONG_255 = "f" * 150 + "/" + "ü" * 140


def members(format: str) -> list[tuple[str, bytes]]:
    """Three samples and more; names as long as the format allows."""
    long = {"v7": "long", "ustar": LONG_100, "gnu": LONG_255, "pax": LONG_255}[format]
    return [
        ("a/b/0001.jpg", bytes(range(256)) * 2 + b"!"),
        ("a/b/0001.seg.png", b""),
        ("a/b/0001.json", b"{}"),
        ("notes", b"no sample's"),
        (f"{long}.txt", b"x" * 512),
        (f"{long}.cls", b"3"),
        ("süß.txt", b"y" * 511),
    ]


def archive(format: str) -> bytes:
    """A directory, a link, and `members`."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=FORMATS[format] or tarfile.USTAR_FORMAT) as tar:
        for name, kind in (("a", tarfile.DIRTYPE), ("link", tarfile.SYMTYPE)):
            header = tarfile.TarInfo(name)
            header.type, header.linkname = kind, "a/b/0001.jpg" if kind == tarfile.SYMTYPE else ""
            tar.addfile(header)
        for name, data in members(format):
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    content = bytearray(file.getvalue()[: file.tell()])
    if format == "v7":
        for position in header_positions(bytes(content)):
            content[position + 257 : position + BLOCK] = bytes(255)
            if content[position + 156 : position + 157] in (b"0", b"5"):  # a directory's name ends in a slash
                content[position + 156] = 0
            seal(content, position)
    return bytes(content)


def empty_members(names: Iterable[str]) -> bytes:
    """An archive of very many members of no bytes, much faster than ``tarfile`` writes it."""
    header = bytearray(tarfile.TarInfo("-").tobuf())
    content = bytearray()
    for name in names:
        header[:100] = name.encode().ljust(100, b"\0")
        seal(header, 0)
        content += header
    return bytes(content) + bytes(2 * BLOCK)


def header_positions(content: bytes) -> list[int]:
    """Every block whose checksum is that of a header."""
    return [
        position
        for position in range(0, len(content), BLOCK)
        if _checksum(content, position) == _stored(content, position)
    ]


def seal(content: bytearray, position: int) -> None:
    """Corrects the checksum of a header that was changed."""
    content[position + 148 : position + 156] = b"%06o\0 " % _checksum(content, position)


def _checksum(content: bytes | bytearray, position: int) -> int:
    header = content[position : position + BLOCK]
    return sum(header[:148]) + sum(header[156:]) + 8 * 32


def _stored(content: bytes, position: int) -> int:
    try:
        return int(content[position + 148 : position + 154], 8)
    except ValueError:
        return -1


def scanned(path: Path) -> list[Member]:
    with path.open("rb") as file:
        return list(scan(Blocks(path, file)))


def by_tarfile(content: bytes) -> tuple[list[Member], list[bytes], bool]:
    """Regular files and their bytes, up to where ``tarfile`` stops, and whether the archive ends there.

    It stops in silence at a header that it cannot read, and raises all kinds of errors on damaged ones.
    """
    found: list[Member] = []
    data: list[bytes] = []
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
            for info in tar:
                if info.isreg():
                    file = tar.extractfile(info)
                    assert file is not None
                    data.append(file.read())
                    found.append(Member(info.name, info.offset_data, info.size))
            return found, data, content[tar.offset : tar.offset + BLOCK] == bytes(BLOCK)
    except Exception:
        return found, data, False


def cut(content: bytes, found: Sequence[Member]) -> list[bytes]:
    return [content[offset : offset + size] for _, offset, size in found]
