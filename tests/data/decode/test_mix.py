from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mmtrain.data.decode.mix import CutMix, Mix, Mixup
from mmtrain.data.plan.draw import SampleSeed, Stream
from mmtrain.errors import ConfigError

SIZE, SAMPLES = 32, 1000


def draws(n: int = 4000, **options: Any) -> list[Mixup | CutMix | None]:
    mix = Mix(**options)
    return [mix.draw(SampleSeed(0, 0, number).generator(Stream.MIX), SAMPLES, SIZE) for number in range(n)]


def pictures() -> tuple[np.ndarray, np.ndarray]:
    image, other = np.random.default_rng(0).integers(0, 256, (2, 3, SIZE, SIZE), np.uint8)
    return image, other


@pytest.mark.parametrize("level", [0, 1, 100, 128, 255])
def test_mixup_is_the_weighted_mean_to_the_nearest_level(level: int) -> None:
    image, other = pictures()
    mixing = Mixup(3, level)
    exact = mixing.share * image.astype(float) + (1 - mixing.share) * other.astype(float)
    mixed = mixing(image, other)
    assert mixed.dtype == np.uint8
    assert np.abs(mixed - exact).max() <= 0.5


def test_cutmix_copies_a_box_and_counts_what_is_left() -> None:
    for mixing in draws(200, cutmix=1.0):
        if mixing is None:
            continue
        assert isinstance(mixing, CutMix)
        mixed = mixing(np.zeros((3, SIZE, SIZE), np.uint8), np.ones((3, SIZE, SIZE), np.uint8))
        assert mixing.share == pytest.approx(1 - mixed.mean())
        rows, columns = mixed[0].any(1).nonzero()[0], mixed[0].any(0).nonzero()[0]
        assert mixed[0, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all(), "it is one box"


def test_shares_of_mixup_have_the_published_distribution() -> None:
    shares = [mixing.share if mixing else 1.0 for mixing in draws(mixup=0.2)]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.03)
    assert np.var(shares) == pytest.approx(1 / (4 * (2 * 0.2 + 1)), rel=0.05)  # of Beta(a, a)


def test_one_of_the_two_is_applied_by_its_probability() -> None:
    kinds = [type(mixing) for mixing in draws(mixup=1.0, cutmix=1.0, probability=0.5, cutmix_share=0.2)]
    assert kinds.count(type(None)) / len(kinds) == pytest.approx(0.5, abs=0.03)
    assert kinds.count(CutMix) / len(kinds) == pytest.approx(0.1, abs=0.03)
    assert {type(mixing) for mixing in draws(mixup=1.0)} <= {Mixup, type(None)}
    assert {type(mixing) for mixing in draws(cutmix=1.0)} <= {CutMix, type(None)}


def test_partners_are_drawn_from_the_whole_training_set() -> None:
    partners = [mixing.partner for mixing in draws(mixup=1.0) if mixing]
    assert len(set(partners)) > 900
    assert all(0 <= partner < SAMPLES for partner in partners)
    assert np.mean(partners) == pytest.approx(SAMPLES / 2, rel=0.05)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"mixup": -1.0}, "mixup = -1.0 is out of range"),
        ({"mixup": 1.0, "probability": 1.5}, "probability = 1.5 is out of range"),
        ({"cutmix": 1.0, "cutmix_share": -0.1}, "cutmix_share = -0.1 is out of range"),
        ({}, "neither mixup nor cutmix is on"),
    ],
)
def test_what_cannot_be_mixed_by_is_refused(options: dict[str, float], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        Mix(**options)
