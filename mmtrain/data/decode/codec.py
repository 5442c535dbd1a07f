"""Codecs: JPEG by libjpeg-turbo, PNG by OpenCV, WebP by Pillow, all to uint8 RGB ``(height, width, 3)``.

Pixels come as they are stored: no codec applies EXIF orientation, colour profiles or gamma. All release the GIL.
"""

from __future__ import annotations

import io

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

UInt8Array = NDArray[np.uint8]

MAX_PIXELS = 100_000_000
"""Larger images are refused before they are decoded: a few kB can hold a header that claims gigabytes."""

_PNG = b"\x89PNG\r\n\x1a\n"


def decode(data: bytes) -> UInt8Array:
    """Decodes a JPEG, PNG or WebP image to RGB, ``(height, width, 3)``; what is transparent becomes white.

    Raises:
        ValueError: The image is damaged, of another format, or larger than `MAX_PIXELS`.
    """
    if is_jpeg(data):
        jpeg_size(data)
        return decode_jpeg(data)
    return _decode_png(data) if data.startswith(_PNG) else _decode_with_pillow(data)


def is_jpeg(data: bytes) -> bool:
    """Whether the data begin as a JPEG does."""
    return data.startswith(b"\xff\xd8")


def jpeg_size(data: bytes) -> tuple[int, int]:
    """Height and width that a JPEG's header claims.

    Raises:
        ValueError: The header is damaged, or claims more than `MAX_PIXELS`.
    """
    height, width, *_ = simplejpeg.decode_jpeg_header(data)
    _bound(width, height)
    return int(height), int(width)


def decode_jpeg(data: bytes, shrink: int = 1) -> UInt8Array:
    """Decodes a JPEG whose header `jpeg_size` has read. CMYK becomes RGB.

    Args:
        data: The JPEG.
        shrink: 1, 2, 4 or 8: both sides are divided by it, and rounded up. Only the low frequencies of each block are
            transformed, which saves up to all of the transform's time. libjpeg-turbo could also scale by 3/8, 5/8, ...:
            those have no SIMD code, and take longer than the whole image.

    Raises:
        ValueError: The image is damaged.
    """
    if shrink == 1:
        return as_uint8(simplejpeg.decode_jpeg(data, "RGB"))
    height, width, *_ = simplejpeg.decode_jpeg_header(data)
    # simplejpeg takes the smallest scale that keeps both sides at their minimum.
    smallest = {"min_height": -(-height // shrink), "min_width": -(-width // shrink)}
    return as_uint8(simplejpeg.decode_jpeg(data, "RGB", **smallest))


def _decode_png(data: bytes) -> UInt8Array:
    """OpenCV takes 0.6 of Pillow's time for the same pixels."""
    _bound(int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big"))
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None or (image.ndim == 2 and b"tRNS" in data):
        return _decode_with_pillow(data)  # it says what is wrong, and does not lose a gray image's transparent value
    if image.dtype == np.uint16:
        image = np.right_shift(image, 8).astype(np.uint8)
    if image.ndim == 2:
        return as_uint8(cv2.cvtColor(image, cv2.COLOR_GRAY2RGB))
    if image.shape[2] == 3:
        return as_uint8(cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image))
    return _over_white(as_uint8(cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA, dst=image)))


def _over_white(image: UInt8Array) -> UInt8Array:
    """Composes RGBA over white, in the fixed-point numbers of Pillow's ``alpha_composite``."""
    alpha = image[..., 3:].astype(np.uint32)
    blend = (image[..., :3] * alpha + 255 * (255 - alpha) + 128) << 7
    return (((blend >> 8) + blend) >> 15).astype(np.uint8)


def _decode_with_pillow(data: bytes) -> UInt8Array:
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "WEBP")) as image:
            _bound(*image.size)
            if not image.has_transparency_data:
                return np.asarray(image.convert("RGB"))
            picture = image.convert("RGBA")
            return np.asarray(Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow raises SyntaxError for a broken PNG
        raise ValueError(f"not a usable image: {error}") from None


def _bound(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ValueError(f"an image of {width} x {height} pixels is over the bound of {MAX_PIXELS}")


def as_uint8(image: object) -> UInt8Array:
    """Says so to the type checker: OpenCV declares arrays of any kind."""
    assert isinstance(image, np.ndarray)
    assert image.dtype == np.uint8
    return image
