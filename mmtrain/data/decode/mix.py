"""Two images as one: mixup and CutMix, of uint8 pixels, with the share that each of them has in the label."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mmtrain.data.decode.codec import UInt8Array
from mmtrain.errors import ConfigError

_LEVELS = 256
"""Shares of a mixup are counted in so many parts: the sum of two weighted bytes then fits into 16 bits, exactly."""


@dataclass(frozen=True)
class Mixup:
    """A weighted mean of two images.

    Attributes:
        partner: Number of the other sample.
        level: Weight of the sample itself, in parts of 256.
    """

    partner: int
    level: int

    @property
    def share(self) -> float:
        """What the sample has in the label."""
        return self.level / _LEVELS

    def __call__(self, image: UInt8Array, other: UInt8Array) -> UInt8Array:
        """The mean of two images of one shape, rounded to the nearest level."""
        total = np.multiply(image, self.level, dtype=np.uint16)
        total += np.multiply(other, _LEVELS - self.level, dtype=np.uint16)
        total += _LEVELS // 2
        return (total >> 8).astype(np.uint8)


@dataclass(frozen=True)
class CutMix:
    """An image with a box of another one in its place.

    Attributes:
        partner: Number of the other sample.
        rows: Rows of the box.
        columns: Columns of the box.
        share: What the sample has in the label: its part of the pixels.
    """

    partner: int
    rows: slice
    columns: slice
    share: float

    def __call__(self, image: UInt8Array, other: UInt8Array) -> UInt8Array:
        """Copies the box of ``other``, ``(3, size, size)``, into ``image``, which is changed."""
        image[:, self.rows, self.columns] = other[:, self.rows, self.columns]
        return image


class Mix:
    """Draws, for one sample at a time, whether, with which sample and how it is mixed.

    Args:
        mixup: Alpha of mixup, whose share is drawn from Beta(alpha, alpha) (Zhang et al. 2018, arXiv:1710.09412,
            equation 1); 0 for none.
        cutmix: Alpha of CutMix, whose box leaves a share of the image that is drawn likewise (Yun et al. 2019,
            arXiv:1905.04899, equation 2); 0 for none.
        probability: Share of the samples that are mixed.
        cutmix_share: Share of the mixed samples that CutMix takes where both are on.

    Raises:
        ConfigError: An argument is out of range.
    """

    def __init__(
        self, *, mixup: float = 0.0, cutmix: float = 0.0, probability: float = 1.0, cutmix_share: float = 0.5
    ) -> None:
        for name, share in (("probability", probability), ("cutmix_share", cutmix_share)):
            if not 0 <= share <= 1:
                raise ConfigError(f"{name} = {share} is out of range", where=f"data.mix.{name}", mend="set 0 to 1")
        for name, alpha in (("mixup", mixup), ("cutmix", cutmix)):
            if alpha < 0:
                mend = "set 0 for none, or a positive alpha, such as 0.2"
                raise ConfigError(f"{name} = {alpha} is out of range", where=f"data.mix.{name}", mend=mend)
        if not (mixup or cutmix):
            raise ConfigError("neither mixup nor cutmix is on", where="data.mix", mend="set an alpha, or data.mix=null")
        self.mixup = mixup
        self.cutmix = cutmix
        self.probability = probability
        self.cutmix_share = cutmix_share if mixup and cutmix else float(cutmix > 0)

    def draw(self, rng: np.random.Generator, num_samples: int, size: int) -> Mixup | CutMix | None:
        """Draws a sample's mixing; None where it stays as it is.

        Args:
            rng: The sample's own generator.
            num_samples: Samples that the partner is drawn from.
            size: Side of the images, in pixels.
        """
        apply, cut, partner, x, y = rng.random(5).tolist()
        if apply >= self.probability:
            return None
        if cut < self.cutmix_share:
            side = math.sqrt(1 - rng.beta(self.cutmix, self.cutmix))
            rows, columns = _span(y, side, size), _span(x, side, size)
            area = (rows.stop - rows.start) * (columns.stop - columns.start)
            return CutMix(int(partner * num_samples), rows, columns, 1 - area / size**2) if area else None
        level = round(rng.beta(self.mixup, self.mixup) * _LEVELS)
        return Mixup(int(partner * num_samples), level) if level < _LEVELS else None


def _span(centre: float, length: float, size: int) -> slice:
    """The pixels around a centre, cut at the edges; centre and length are shares of the size."""
    middle, half = int(centre * size), round(length * size) // 2
    return slice(max(0, middle - half), min(size, middle + half))
