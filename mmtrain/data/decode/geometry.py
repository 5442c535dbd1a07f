"""Resampling: a box or an affine map of an image becomes a square view, without aliasing.

Coordinates run over areas: an image covers ``[0, width] x [0, height]``, and its pixels' centres lie at halves.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from mmtrain.data.decode.codec import UInt8Array, as_uint8

FloatArray = NDArray[np.float64]
Colour = tuple[int, int, int]
Row = tuple[float, float, float]


class Box(NamedTuple):
    """A part of an image, in pixels."""

    left: float
    top: float
    width: float
    height: float


def resize(image: UInt8Array, box: Box, size: int) -> UInt8Array:
    """The view ``(size, size, 3)`` of a box, rounded to whole pixels, of an image ``(height, width, 3)``."""
    left, top = min(round(box.left), image.shape[1] - 1), min(round(box.top), image.shape[0] - 1)
    right, bottom = max(left + 1, round(box.left + box.width)), max(top + 1, round(box.top + box.height))
    crop = image[top:bottom, left:right]
    while max(crop.shape[:2]) > 2 * size:
        crop = _halve(crop, crop.shape[1] > 2 * size, crop.shape[0] > 2 * size)
    return as_uint8(cv2.resize(crop, (size, size), interpolation=cv2.INTER_LINEAR))


def warp(image: UInt8Array, view_to_image: FloatArray, size: int, background: Colour) -> UInt8Array:
    """The view ``(size, size, 3)`` of an image ``(height, width, 3)`` under a map (2, 3) of pixel centres."""
    # Plain floats: a dozen operations on arrays this small take longer than the sampling.
    rows = view_to_image.tolist()
    left, right = _span(rows[0], size, image.shape[1])
    top, bottom = _span(rows[1], size, image.shape[0])
    image = image[top:bottom, left:right]
    rows = [[*linear, offset - first] for (*linear, offset), first in zip(rows, (left, top), strict=True)]
    while any(halved := [math.hypot(x, y) > 2 for x, y, _ in rows]):
        image = _halve(image, *halved)
        rows = [
            [x / 2, y / 2, (t - 0.5) / 2] if half else [x, y, t] for half, (x, y, t) in zip(halved, rows, strict=True)
        ]
    return sample(image, np.array(rows), size, background)


def _span(row: list[float], size: int, length: int) -> tuple[int, int]:
    """First and last + 1 pixel along an axis of the image that the view needs; `row` maps pixel centres to the axis."""
    x, y, low = row
    high = low + (size - 1) * (max(x, 0.0) + max(y, 0.0))
    low += (size - 1) * (min(x, 0.0) + min(y, 0.0))
    shrink = math.hypot(x, y)
    margin = math.ceil(2 * shrink) if shrink > 2 else 1  # halving mixes further pixels into the view's
    first = min(max(math.floor(low) - margin, 0), length - 1)
    return first, min(max(math.ceil(high) + margin + 1, first + 1), length)


def _halve(image: UInt8Array, along_x: bool, along_y: bool) -> UInt8Array:
    """Averages pairs of pixels, which is what bilinear sampling does at exactly half the size.

    Halving until it suffices avoids aliasing like ``cv2.INTER_AREA`` at other factors, in a tenth of its time.
    """
    height, width = image.shape[:2]
    width, height = max(1, width // (1 + along_x)), max(1, height // (1 + along_y))
    image = image[: height * (1 + along_y), : width * (1 + along_x)]  # an odd last pixel is left out
    return as_uint8(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR))


def sample(image: UInt8Array, view_to_image: FloatArray, size: int, background: Colour) -> UInt8Array:
    """Bilinear samples of the image at the view's pixels; `view_to_image` (2, 3) maps pixel centres."""
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return as_uint8(cv2.warpAffine(image, view_to_image, (size, size), flags=flags, borderValue=background))


def between_centres(x_row: Row, y_row: Row) -> FloatArray:
    """The map (2, 3) of pixel centres, numbered from 0, for the rows (x, y, offset) of a map of coordinates."""
    return np.array([(x, y, offset + (x + y) / 2 - 0.5) for x, y, offset in (x_row, y_row)])


def planes(view: UInt8Array) -> UInt8Array:
    """Copies ``(height, width, 3)`` to ``(3, height, width)``; numpy's own copy takes five times as long."""
    height, width = view.shape[:2]
    channels = np.empty((3, height, width), np.uint8)
    cv2.split(view, list(channels))
    return channels
