"""Image files on their way into a shard: checked, and made smaller where that is asked for."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import simplejpeg

from mmtrain.data.decode.codec import as_uint8, decode, decode_jpeg, jpeg_size
from mmtrain.data.pack.faults import BadItemError


@dataclass(frozen=True)
class Resize:
    """Shorter sides over ``side`` pixels become ``side``; the image becomes a JPEG of this quality."""

    side: int
    quality: int = 90


def format_of(data: bytes) -> str:
    """The extension that fits an image file's first bytes: ``jpg``, ``png`` or ``webp``.

    Raises:
        BadItemError: It is none of these.
    """
    if data.startswith(b"\xff\xd8\xff"):
        return "jpg"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    raise BadItemError("it is not a JPEG, PNG or WebP file" if data else "the file is empty")


def prepare(data: bytes, resize: Resize | None) -> tuple[str, bytes]:
    """Returns the extension and the bytes to store: the file's own, or those of a smaller JPEG.

    Orientation tags are not applied, as the loader applies none; a transparent ground becomes white in a JPEG.

    Raises:
        BadItemError: The image is damaged, of an unsupported format, or too large.
    """
    extension = format_of(data)
    try:
        if resize is None:
            _check(data, extension)
            return extension, data
        image = decode(data)
    except ValueError as error:
        raise BadItemError(f"it cannot be decoded: {error}") from None
    height, width = image.shape[:2]
    short = min(height, width)
    if short <= resize.side:
        return extension, data
    size = (round(width * resize.side / short), round(height * resize.side / short))
    smaller = as_uint8(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
    return "jpg", simplejpeg.encode_jpeg(smaller, quality=resize.quality, colorsubsampling="420")


def _check(data: bytes, extension: str) -> None:
    if extension != "jpg":
        decode(data)
        return
    jpeg_size(data)
    decode_jpeg(data, shrink=8)  # every coded byte is read, and most of the arithmetic is saved
