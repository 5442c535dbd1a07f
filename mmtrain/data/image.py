"""Images: decoding, augmentation for training, and the fixed view for evaluation.

Images are uint8 RGB, ``(height, width, 3)`` until a transform returns ``(3, size, size)``. The model normalises.
"""

from __future__ import annotations

import io
import math
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from mmtrain.errors import ConfigError

UInt8Array = NDArray[np.uint8]
FloatArray = NDArray[np.float64]

MAX_PIXELS = 100_000_000
"""Larger images are refused before they are decoded: a few kB can hold a header that claims gigabytes."""

_LUMA = np.array([0.299, 0.587, 0.114])
_RGB_TO_YIQ = np.array([_LUMA, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_YIQ_TO_RGB = np.linalg.inv(_RGB_TO_YIQ)


def decode(data: bytes) -> UInt8Array:
    """Decodes a JPEG, PNG or WebP image to RGB, ``(height, width, 3)``; what is transparent becomes white.

    Raises:
        ValueError: The image is damaged, of another format, or larger than `MAX_PIXELS`.
    """
    if data[:2] == b"\xff\xd8":
        height, width, *_ = simplejpeg.decode_jpeg_header(data)
        _bound(width, height)
        return _uint8(simplejpeg.decode_jpeg(data, "RGB"))
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


class TrainTransform:
    """Random resized crop, flip, affine warp, colour jitter and erasing.

    All geometry is one affine map and one resampling; all colour changes are one linear map. Every call takes the same
    number of draws, whatever is switched on, so that switching one thing on shifts nothing else.

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

    def __call__(self, image: UInt8Array, rng: np.random.Generator) -> UInt8Array:
        """Returns an augmented view ``(3, size, size)`` of an image ``(height, width, 3)``; both uint8 RGB."""
        draws = _Draws(*rng.random(len(_Draws._fields)).tolist())
        view = _warp(image, self._view_to_image(image.shape[0], image.shape[1], draws), self.size, self.background)
        view = self._recolour(view, draws)
        if draws.erase < self.erasing:
            self._erase(view, draws)
        return np.ascontiguousarray(view.transpose(2, 0, 1))

    def _view_to_image(self, height: int, width: int, draws: _Draws) -> FloatArray:
        """The affine map (2, 3) from pixel centres of the view to those of the image."""
        area = height * width * _between(draws.area, *self.scale)
        ratio = math.exp(_between(draws.ratio, math.log(self.ratio[0]), math.log(self.ratio[1])))
        crop_width = min(width, math.sqrt(area * ratio))
        crop_height = min(height, math.sqrt(area / ratio))
        left = draws.left * (width - crop_width) + self.translation * crop_width * _signed(draws.shift_x)
        top = draws.top * (height - crop_height) + self.translation * crop_height * _signed(draws.shift_y)
        angle = math.radians(self.rotation * _signed(draws.rotation))
        cosine, sine = math.cos(angle), math.sin(angle)
        shear = math.tan(math.radians(self.shear * _signed(draws.shear)))
        mirror = -1.0 if draws.flip < self.flip else 1.0
        turn = np.array([[cosine, -sine], [sine, cosine]]) @ np.array([[mirror, shear], [0.0, 1.0]])
        linear = turn * (np.array([[crop_width], [crop_height]]) / self.size)
        centre = np.array([left + crop_width / 2, top + crop_height / 2])
        offset = centre - linear @ np.full(2, self.size / 2)
        return _between_centres(linear, offset)

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
        return _uint8(cv2.transform(view, np.hstack([linear, offset])))

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

    Args:
        size: Side of the square view, in pixels.
    """

    def __init__(self, size: int) -> None:
        _require(size > 0, "size", size, "it needs at least one pixel")
        self.size = size

    def __call__(self, image: UInt8Array) -> UInt8Array:
        """Returns the view ``(3, size, size)`` of an image ``(height, width, 3)``; both uint8 RGB."""
        height, width = image.shape[:2]
        short = min(height, width)
        width, height = self.size * width // short, self.size * height // short
        resized = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
        top, left = round((height - self.size) / 2), round((width - self.size) / 2)
        return np.ascontiguousarray(resized[top : top + self.size, left : left + self.size].transpose(2, 0, 1))


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


def _warp(image: UInt8Array, view_to_image: FloatArray, size: int, background: tuple[int, int, int]) -> UInt8Array:
    """Samples the image at the view's pixels; shrinks it by areas first where bilinear sampling would alias."""
    height, width = image.shape[:2]
    corners = view_to_image @ np.array([[0, size - 1, 0, size - 1], [0, 0, size - 1, size - 1], [1, 1, 1, 1]])
    left, top = np.clip(np.floor(corners.min(1)).astype(int) - 1, 0, [width - 1, height - 1])
    right, bottom = np.clip(np.ceil(corners.max(1)).astype(int) + 2, [left + 1, top + 1], [width, height])
    image = image[top:bottom, left:right]
    linear = view_to_image[:, :2]
    offset = view_to_image[:, 2] - linear @ (0.5, 0.5) + 0.5 - (left, top)
    shrink = np.linalg.norm(linear, axis=1)  # pixels of the image along x and y for one of the view
    if shrink.max() > 2:
        before = np.array([right - left, bottom - top])
        after = np.maximum(1, np.round(before / np.maximum(shrink, 1))).astype(int)
        image = _uint8(cv2.resize(image, (int(after[0]), int(after[1])), interpolation=cv2.INTER_AREA))
        linear = linear * (after / before)[:, None]
        offset = offset * (after / before)
    matrix = _between_centres(linear, offset)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return _uint8(cv2.warpAffine(image, matrix, (size, size), flags=flags, borderValue=background))


def _between_centres(linear: FloatArray, offset: FloatArray) -> FloatArray:
    """The map of pixel centres, which lie half a pixel inside, for a map of coordinates."""
    return np.hstack([linear, (offset + linear @ (0.5, 0.5) - 0.5)[:, None]])


def _uint8(image: object) -> UInt8Array:
    assert isinstance(image, np.ndarray)
    assert image.dtype == np.uint8
    return image


def _between(draw: float, low: float, high: float) -> float:
    return low + (high - low) * draw


def _signed(draw: float) -> float:
    return 2 * draw - 1


def _require(holds: bool, name: str, value: object, mend: str) -> None:
    if not holds:
        raise ConfigError(f"{name} = {value} is out of range", where=f"an image transform's {name}", mend=mend)
