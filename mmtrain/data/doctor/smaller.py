"""What smaller stored pictures would save: some samples' pictures are made smaller here, and both kinds measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmtrain.data.doctor.stages import Item, Speed, Stage, bytes_of, race
from mmtrain.data.pack.pictures import Resize, prepare

_SAMPLES = 48
_MARGIN = 8 / 7  # 256 pixels for a view of 224: the custom of ImageNet
_EXTENSIONS = ("jpg", "jpeg", "png", "webp")


@dataclass(frozen=True)
class Smaller:
    """The same samples with their pictures as they are stored, and with smaller ones.

    Attributes:
        side: Pixels of a smaller picture's shorter side.
        now: Preparing them as they are, on one core.
        then: Preparing the smaller ones.
    """

    side: int
    now: Speed
    then: Speed


def measure_smaller(items: Sequence[Item], encode: Stage, view: int, seconds: float) -> Smaller | None:
    """Prepares samples as they are and with pictures a little larger than the view of ``view`` pixels.

    Returns:
        None where the pictures are no larger than that.
    """
    side = round(view * _MARGIN)
    pairs = [(item, smaller) for item in items[:_SAMPLES] if (smaller := _shrink(item, side)) is not None]
    if not pairs:
        return None
    speeds = race(
        pairs,
        {"now": lambda pair: encode(*pair[0]), "then": lambda pair: encode(*pair[1])},
        seconds,
    )
    now, then = (sum(bytes_of(pair[kind].raw) for pair in pairs) / len(pairs) for kind in (0, 1))
    return Smaller(side, _sized(speeds["now"], now), _sized(speeds["then"], then))


def _sized(speed: Speed, bytes_per_sample: float) -> Speed:
    return Speed(speed.samples, speed.seconds, speed.cpu_seconds, int(speed.samples * bytes_per_sample))


def _shrink(item: Item, side: int) -> Item | None:
    raw = dict(item.raw)
    extension = next((name for name in _EXTENSIONS if name in raw), None)
    if extension is None:
        return None
    stored = raw.pop(extension)
    extension, smaller = prepare(stored, Resize(side))
    return None if smaller is stored else Item({**raw, extension: smaller}, item.seed)
