"""Columns of an index: one number for each sample, computed from its bytes when its shard is indexed."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mmtrain.errors import DataError, did_you_mean

RawSample = dict[str, Any]
"""``__key__`` (str) and one ``bytes`` for each extension."""

Column = Callable[[RawSample], int]
"""What a sample counts, below 2**32."""

IMAGES = ("jpg", "jpeg", "png", "webp")
_TOKEN_BYTES = {"u16": 2, "u32": 4}
_PNG = b"\x89PNG\r\n\x1a\n"
# Start of frame, in all codings; C4, C8 and CC in this range mean other things.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def columns_named(names: Iterable[str]) -> dict[str, Column]:
    """The built-in columns of these names.

    Raises:
        DataError: There is no such column.
    """
    chosen = {}
    for name in names:
        if name not in COLUMNS:
            raise DataError(f"there is no column {name!r}", where="columns", mend=did_you_mean(name, COLUMNS))
        chosen[name] = COLUMNS[name]
    return chosen


def width(raw: RawSample) -> int:
    """Pixels a row of the sample's picture, from its header; 0 where there is no picture, or none that can be read."""
    return _image_size(raw)[0]


def height(raw: RawSample) -> int:
    """Rows of the sample's picture, as `width`."""
    return _image_size(raw)[1]


def text_length(raw: RawSample) -> int:
    """Characters of member ``txt``; 0 where there is none."""
    return len(raw.get("txt", b"").decode(errors="replace"))


def num_tokens(raw: RawSample) -> int:
    """Tokens of member ``u16`` or ``u32``, raw little-endian token ids; 0 where there is none."""
    return sum(len(raw[extension]) // size for extension, size in _TOKEN_BYTES.items() if extension in raw)


COLUMNS: Mapping[str, Column] = {column.__name__: column for column in (width, height, text_length, num_tokens)}


def _image_size(raw: RawSample) -> tuple[int, int]:
    data = next((raw[extension] for extension in IMAGES if extension in raw), b"")
    try:
        if data.startswith(b"\xff\xd8"):
            return _jpeg_size(data)
        if data.startswith(_PNG):
            return struct.unpack_from(">II", data, 16)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp_size(data)
    except (struct.error, IndexError):  # the header is cut short
        pass
    return 0, 0


def _jpeg_size(data: bytes) -> tuple[int, int]:
    position = 2
    while data[position] == 0xFF:
        marker = data[position + 1]
        if marker in _FRAMES:
            rows, pixels = struct.unpack_from(">HH", data, position + 5)
            return pixels, rows
        # 0xFF may be repeated; markers 01 and D0 to D8 have no content, all others begin with their length.
        if marker == 0xFF:
            position += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:
            position += 2
        else:
            position += 2 + struct.unpack_from(">H", data, position + 2)[0]
    return 0, 0


def _webp_size(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        (packed,) = struct.unpack_from("<I", data, 21)
        return 1 + (packed & 0x3FFF), 1 + (packed >> 14 & 0x3FFF)
    pixels, rows = struct.unpack_from("<HH", data, 26)
    return pixels & 0x3FFF, rows & 0x3FFF
