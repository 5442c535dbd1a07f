"""Views of images: augmented ones for training, the fixed one for evaluation.

Both take an encoded image or its pixels, and return uint8 RGB ``(3, size, size)``. The model normalises.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from mmtrain.data.decode import geometry
from mmtrain.data.decode.codec import UInt8Array, as_uint8, decode, decode_jpeg, is_jpeg, jpeg_size
from mmtrain.data.decode.geometry import Box, FloatArray
from mmtrain.data.decode.randaugment import RandAugment
from mmtrain.errors import ConfigError

_LUMA = np.array([0.299, 0.587, 0.114])
_RGB_TO_YIQ = np.array([_LUMA, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_YIQ_TO_RGB = np.linalg.inv(_RGB_TO_YIQ)


class TrainTransform:
    """Random resized crop, flip, affine warp, colour jitter, RandAugment and erasing, in this order.

    All geometry is one resampling; all colour jitter is one linear map. The crop is drawn before the image is decoded,
    and a JPEG is decoded at the smallest of 1/1, 1/2, 1/4 and 1/8 that leaves the crop no smaller than the view. Where
    nothing is rotated, shifted or sheared, the crop is rounded to whole pixels of what was decoded.

    Every call takes the same number of draws, whatever is switched on, so that switching one thing on shifts nothing
    else; RandAugment's come after all others.

    Args:
        size: Side of the square view, in pixels.
        scale: Range of the crop's area, as a fraction of the image's.
        ratio: Range of the crop's width / height; drawn uniformly in its logarithm.
        flip: Probability of a horizontal flip.
        rotation: Largest rotation to either side, in degrees.
        translation: Largest shift along each axis, as a fraction of the crop.
        shear: Largest horizontal shear to either side, in degrees.
        brightness: The image is scaled by a factor within 1 +- this.
        contrast: The distance to the mean luma is scaled by a factor within 1 +- this.
        saturation: The distance to each pixel's luma is scaled by a factor within 1 +- this.
        hue: Largest turn of the hue (in the YIQ plane) to either side, as a fraction of a full turn, at most 0.5.
        grayscale: Probability that the image loses its colour.
        erasing: Probability that a rectangle of 2 to 33% of the view is erased (Zhong et al. 2017).
        background: RGB colour of what lies outside the image and of what is erased.
        randaugment: Further operations, drawn for each view.
    """

    def __init__(
        self,
        size: int,
        *,
        scale: tuple[float, float] = (0.9, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        flip: float = 0.0,
        rotation: float = 0.0,
        translation: float = 0.0,
        shear: float = 0.0,
        brightness: float = 0.0,
        contrast: float = 0.0,
        saturation: float = 0.0,
        hue: float = 0.0,
        grayscale: float = 0.0,
        erasing: float = 0.0,
        background: tuple[int, int, int] = (255, 255, 255),
        randaugment: RandAugment | None = None,
    ) -> None:
        for name, value in (("flip", flip), ("grayscale", grayscale), ("erasing", erasing)):
            _require(0 <= value <= 1, name, value, "a probability lies in [0, 1]")
        for name, value in (("brightness", brightness), ("contrast", contrast), ("saturation", saturation)):
            _require(0 <= value <= 1, name, value, "a factor within 1 +- x stays positive for x in [0, 1]")
        _require(0 <= hue <= 0.5, "hue", hue, "half a turn is the most")
        _require(0 < scale[0] <= scale[1] <= 1, "scale", scale, "it needs 0 < low <= high <= 1")
        _require(0 < ratio[0] <= ratio[1], "ratio", ratio, "it needs 0 < low <= high")
        _require(size > 0, "size", size, "it needs at least one pixel")
        _require(abs(shear) < 90, "shear", shear, "it needs less than 90 degrees")
        self.size = size
        self.scale = scale
        self.ratio = ratio
        self.flip = flip
        self.rotation = rotation
        self.translation = translation
        self.shear = shear
        self.brightness = brightness
        self.contrast = contrast
        self.saturation = saturation
        self.hue = hue
        self.grayscale = grayscale
        self.erasing = erasing
        self.background = (int(background[0]), int(background[1]), int(background[2]))
        self.randaugment = randaugment

    def __call__(self, image: bytes | UInt8Array, rng: np.random.Generator) -> UInt8Array:
        """Returns an augmented view, uint8 RGB ``(3, size, size)``.

        Args:
            image: An encoded JPEG, PNG or WebP, or its pixels, uint8 RGB ``(height, width, 3)``.
            rng: The sample's own generator.

        Raises:
            ValueError: The image cannot be decoded, or is too large.
        """
        draws = _Draws(*rng.random(len(_Draws._fields)).tolist())
        pixels, crop = self._decode_crop(image, draws)
        view = self._resample(pixels, crop, draws)
        view = self._recolour(view, draws)
        if self.randaugment is not None:
            view = self.randaugment(view, rng, self.background)
        if draws.erase < self.erasing:
            self._erase(view, draws)
        return geometry.planes(view)

    def decode(self, image: bytes, rng: np.random.Generator) -> UInt8Array:
        """What a call decodes before anything else: the whole image, or a smaller one where that is enough."""
        draws = _Draws(*rng.random(len(_Draws._fields)).tolist())
        return self._decode_crop(image, draws)[0]

    def _decode_crop(self, image: bytes | UInt8Array, draws: _Draws) -> tuple[UInt8Array, Box]:
        """The image, a JPEG no larger than need be, and the crop to take from it."""
        if isinstance(image, bytes):
            if is_jpeg(image):
                crop = self._crop(*jpeg_size(image), draws)
                shrink = next((n for n in (8, 4, 2) if min(crop.width, crop.height) >= n * self.size), 1)
                return decode_jpeg(image, shrink), Box(*(side / shrink for side in crop))
            image = decode(image)
        return image, self._crop(image.shape[0], image.shape[1], draws)

    def _crop(self, height: int, width: int, draws: _Draws) -> Box:
        area = height * width * _between(draws.area, *self.scale)
        ratio = math.exp(_between(draws.ratio, math.log(self.ratio[0]), math.log(self.ratio[1])))
        crop_width = min(width, math.sqrt(area * ratio))
        crop_height = min(height, math.sqrt(area / ratio))
        left, top = draws.left * (width - crop_width), draws.top * (height - crop_height)
        return Box(left, top, crop_width, crop_height)

    def _resample(self, image: UInt8Array, crop: Box, draws: _Draws) -> UInt8Array:
        if self.rotation or self.translation or self.shear:
            return geometry.warp(image, self._view_to_image(crop, draws), self.size, self.background)
        view = geometry.resize(image, crop, self.size)
        return as_uint8(cv2.flip(view, 1)) if draws.flip < self.flip else view

    def _view_to_image(self, crop: Box, draws: _Draws) -> FloatArray:
        """The affine map (2, 3) from pixel centres of the view to those of the image."""
        left = crop.left + self.translation * crop.width * _signed(draws.shift_x)
        top = crop.top + self.translation * crop.height * _signed(draws.shift_y)
        angle = math.radians(self.rotation * _signed(draws.rotation))
        cosine, sine = math.cos(angle), math.sin(angle)
        shear = math.tan(math.radians(self.shear * _signed(draws.shear)))
        mirror = -1.0 if draws.flip < self.flip else 1.0
        step_x, step_y = crop.width / self.size, crop.height / self.size
        x_row = (cosine * mirror * step_x, (cosine * shear - sine) * step_x)
        y_row = (sine * mirror * step_y, (sine * shear + cosine) * step_y)
        x_offset = left + crop.width / 2 - sum(x_row) * self.size / 2
        y_offset = top + crop.height / 2 - sum(y_row) * self.size / 2
        return geometry.between_centres((*x_row, x_offset), (*y_row, y_offset))

    def _recolour(self, view: UInt8Array, draws: _Draws) -> UInt8Array:
        """Brightness, contrast, saturation, hue and grayscale as one linear map of RGB."""
        gray = draws.grayscale < self.grayscale
        if not (gray or self.brightness or self.contrast or self.saturation or self.hue):
            return view
        brightness = 1 + self.brightness * _signed(draws.brightness)
        contrast = 1 + self.contrast * _signed(draws.contrast)
        saturation = 0.0 if gray else 1 + self.saturation * _signed(draws.saturation)
        angle = 2 * math.pi * self.hue * _signed(draws.hue)
        cosine, sine = saturation * math.cos(angle), saturation * math.sin(angle)
        chroma = np.array([[1.0, 0.0, 0.0], [0.0, cosine, -sine], [0.0, sine, cosine]])
        linear = brightness * contrast * (_YIQ_TO_RGB @ chroma @ _RGB_TO_YIQ)
        mean_luma = brightness * float(_LUMA @ cv2.mean(view)[:3])
        offset = np.full((3, 1), (1 - contrast) * mean_luma)
        return as_uint8(cv2.transform(view, np.hstack([linear, offset])))

    def _erase(self, view: UInt8Array, draws: _Draws) -> None:
        area = _between(draws.erase_area, 0.02, 0.33) * self.size**2
        ratio = math.exp(_between(draws.erase_ratio, math.log(0.3), math.log(1 / 0.3)))
        width = min(self.size, round(math.sqrt(area * ratio)))
        height = min(self.size, round(math.sqrt(area / ratio)))
        left = int(draws.erase_left * (self.size - width + 1))
        top = int(draws.erase_top * (self.size - height + 1))
        view[top : top + height, left : left + width] = self.background


class EvalTransform:
    """Shorter side resized to ``size`` (bicubic, antialiased), then centre-cropped, as torchvision does it.

    Images are decoded whole: a JPEG decoded at 1/2 or 1/4 would be ready in half the time or less, but its view would
    differ by 0.3 to 0.9 levels on average, and figures are compared across papers.

    Args:
        size: Side of the square view, in pixels.
    """

    def __init__(self, size: int) -> None:
        _require(size > 0, "size", size, "it needs at least one pixel")
        self.size = size

    def __call__(self, image: bytes | UInt8Array) -> UInt8Array:
        """Returns the view, uint8 RGB ``(3, size, size)``.

        Args:
            image: An encoded JPEG, PNG or WebP, or its pixels, uint8 RGB ``(height, width, 3)``.

        Raises:
            ValueError: The image cannot be decoded, or is too large.
        """
        pixels = decode(image) if isinstance(image, bytes) else image
        height, width = pixels.shape[:2]
        short = min(height, width)
        width, height = self.size * width // short, self.size * height // short
        resized = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))
        top, left = round((height - self.size) / 2), round((width - self.size) / 2)
        return geometry.planes(resized[top : top + self.size, left : left + self.size])


class _Draws(NamedTuple):
    """One uniform number in [0, 1) for every decision. New ones are added at the end: the others keep their values."""

    area: float
    ratio: float
    left: float
    top: float
    flip: float
    rotation: float
    shift_x: float
    shift_y: float
    shear: float
    brightness: float
    contrast: float
    saturation: float
    hue: float
    grayscale: float
    erase: float
    erase_area: float
    erase_ratio: float
    erase_left: float
    erase_top: float


def _between(draw: float, low: float, high: float) -> float:
    return low + (high - low) * draw


def _signed(draw: float) -> float:
    return 2 * draw - 1


def _require(holds: bool, name: str, value: object, mend: str) -> None:
    if not holds:
        raise ConfigError(f"{name} = {value} is out of range", where=f"an image transform's {name}", mend=mend)
