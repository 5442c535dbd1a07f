"""RandAugment (Cubuk et al. 2020, arXiv:1909.13719): a few operations out of fourteen, all at one magnitude.

The operations and their ranges are those of ``torchvision.transforms.RandAugment``, which Pillow's ``ImageOps``,
``ImageEnhance`` and ``Image.transform`` define. Sampling is bilinear, as in torchvision's recipes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

from mmtrain.data.decode.codec import UInt8Array, as_uint8
from mmtrain.data.decode.geometry import Colour, Row, between_centres, sample
from mmtrain.errors import ConfigError

Operation = Callable[[UInt8Array, float, Colour], UInt8Array]
"""Changes an image ``(size, size, 3)`` by a strength in [-1, 1]; what comes from outside has the colour given."""

_LUMA = (0.299, 0.587, 0.114)
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
_LEVELS = np.arange(256, dtype=np.float32)


class RandAugment:
    """Applies ``num_ops`` operations, each drawn from `OPERATIONS`, and each with a sign of its own.

    Args:
        num_ops: Operations applied to each image, one after the other.
        magnitude: Their strength, in bins: 0 changes nothing, ``num_magnitude_bins - 1`` most. None draws it for each
            operation, which with ``num_ops=1`` is TrivialAugment in RandAugment's ranges (Müller & Hutter 2021,
            arXiv:2103.10158).
        num_magnitude_bins: Bins from no change to the largest.

    Raises:
        ConfigError: An argument is out of range.
    """

    def __init__(self, num_ops: int = 2, magnitude: int | None = 9, num_magnitude_bins: int = 31) -> None:
        if num_ops < 1:
            raise _out_of_range("num_ops", num_ops, "apply at least one operation, or set randaugment=null")
        if num_magnitude_bins < 2:
            raise _out_of_range("num_magnitude_bins", num_magnitude_bins, "it needs two bins or more")
        if magnitude is not None and not 0 <= magnitude < num_magnitude_bins:
            raise _out_of_range("magnitude", magnitude, f"it needs 0 <= magnitude < {num_magnitude_bins} bins")
        self.num_ops = num_ops
        self.magnitude = magnitude
        self.num_magnitude_bins = num_magnitude_bins

    def __call__(self, image: UInt8Array, rng: np.random.Generator, background: Colour) -> UInt8Array:
        """Returns the image ``(size, size, 3)``, uint8 RGB, changed; takes three draws for each operation."""
        operations = list(OPERATIONS.values())
        for choice, sign, level in rng.random((self.num_ops, 3)).tolist():
            magnitude = self.magnitude if self.magnitude is not None else int(level * self.num_magnitude_bins)
            strength = math.copysign(magnitude / (self.num_magnitude_bins - 1), 0.5 - sign)
            image = operations[int(choice * len(operations))](image, strength, background)
        return image


def _identity(image: UInt8Array, strength: float, background: Colour) -> UInt8Array:
    return image


def _shear_x(image: UInt8Array, strength: float, background: Colour) -> UInt8Array:
    return _affine(image, (1, 0.3 * strength, 0), (0, 1, 0), background)


def _shear_y(image: UInt8Array, strength: float, background: Colour) -> UInt8Array:
    return _affine(image, (1, 0, 0), (0.3 * strength, 1, 0), background)


def _translate_x(image: UInt8Array, strength: float, background: Colour) -> UInt8Array:
    return _affine(image, (1, 0, -_shift(image, strength)), (0, 1, 0), background)


def _translate_y(image: UInt8Array, strength: float, background: Colour) -> UInt8Array:
    return _affine(image, (1, 0, 0), (0, 1, -_shift(image, strength)), background)


def _shift(image: UInt8Array, strength: float) -> int:
    return int(150 / 331 * image.shape[0] * strength)  # 150 of 331 pixels in AutoAugment's experiments


def _rotate(image: UInt8Array, strength: float, background: Colour) -> UInt8Array:
    """By up to 30 degrees, counter-clockwise for a positive strength."""
    angle = math.radians(30 * strength)
    cosine, sine, centre = math.cos(angle), math.sin(angle), image.shape[0] / 2
    to_x, to_y = centre * (1 - cosine + sine), centre * (1 - sine - cosine)
    return _affine(image, (cosine, -sine, to_x), (sine, cosine, to_y), background)


def _affine(image: UInt8Array, x_row: Row, y_row: Row, background: Colour) -> UInt8Array:
    return sample(image, between_centres(x_row, y_row), image.shape[0], background)


def _brightness(image: UInt8Array, strength: float, background: Colour) -> UInt8Array:
    return _look_up(image, _LEVELS * _factor(strength))


def _contrast(image: UInt8Array, strength: float, background: Colour) -> UInt8Array:
    mean = int(cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0] + 0.5)
    return _look_up(image, mean + _factor(strength) * (_LEVELS - mean))


def _color(image: UInt8Array, strength: float, background: Colour) -> UInt8Array:
    factor = _factor(strength)
    return as_uint8(cv2.transform(image, factor * np.eye(3) + (1 - factor) * np.tile(_LUMA, (3, 1))))


def _sharpness(image: UInt8Array, strength: float, background: Colour) -> UInt8Array:
    """Pillow's filter leaves the outermost pixels as they are."""
    kernel = (1 - _factor(strength)) * _SMOOTH
    kernel[1, 1] += _factor(strength)
    sharpened = image.copy()
    sharpened[1:-1, 1:-1] = cv2.filter2D(image, -1, kernel)[1:-1, 1:-1]
    return sharpened


def _posterize(image: UInt8Array, strength: float, background: Colour) -> UInt8Array:
    lost = round(4 * abs(strength))
    return _look_up(image, np.arange(256) >> lost << lost)


def _solarize(image: UInt8Array, strength: float, background: Colour) -> UInt8Array:
    kept = 255 - 255 * abs(strength) > _LEVELS
    return _look_up(image, np.where(kept, _LEVELS, 255 - _LEVELS))


def _autocontrast(image: UInt8Array, strength: float, background: Colour) -> UInt8Array:
    tables = []
    for channel in cv2.split(image):
        low, high = int(channel.min()), int(channel.max())
        scale = 255 / (high - low) if high > low else 1.0
        tables.append((np.arange(256) - (low if high > low else 0)) * scale)
    return _look_up(image, *tables)


def _equalize(image: UInt8Array, strength: float, background: Colour) -> UInt8Array:
    return _look_up(image, *(_equalizing(np.bincount(channel.ravel(), minlength=256)) for channel in cv2.split(image)))


def _equalizing(counts: NDArray[np.intp]) -> NDArray[np.intp]:
    """The table that spreads a channel's levels evenly, in the whole numbers of Pillow's ``ImageOps.equalize``."""
    step = (counts.sum() - counts[np.flatnonzero(counts)[-1]]) // 255
    below = np.cumsum(counts) - counts
    return np.asarray((step // 2 + below) // step if step else np.arange(256))


def _look_up(image: UInt8Array, *tables: NDArray[np.generic]) -> UInt8Array:
    """Replaces each level by its entry, cut to [0, 255], in one table (256,) for all channels or in one for each."""
    table = np.clip(np.stack(tables, -1), 0, 255).astype(np.uint8)
    return as_uint8(cv2.LUT(image, table[None]))


def _factor(strength: float) -> float:
    return 1 + 0.9 * strength


def _out_of_range(name: str, value: int, mend: str) -> ConfigError:
    return ConfigError(f"{name} = {value} is out of range", where=f"RandAugment's {name}", mend=mend)


OPERATIONS: Mapping[str, Operation] = {
    "Identity": _identity,
    "ShearX": _shear_x,
    "ShearY": _shear_y,
    "TranslateX": _translate_x,
    "TranslateY": _translate_y,
    "Rotate": _rotate,
    "Brightness": _brightness,
    "Color": _color,
    "Contrast": _contrast,
    "Sharpness": _sharpness,
    "Posterize": _posterize,
    "Solarize": _solarize,
    "AutoContrast": _autocontrast,
    "Equalize": _equalize,
}
"""torchvision's fourteen, by its names."""
