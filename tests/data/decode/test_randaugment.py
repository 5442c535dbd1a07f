"""RandAugment's operations against Pillow's, which define them."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from mmtrain.data import RandAugment, TrainTransform
from mmtrain.data.decode.randaugment import OPERATIONS
from mmtrain.errors import ConfigError

SIZE = 48
RED = (255, 0, 0)
STRENGTHS = [bin / 30 * sign for bin in (0, 1, 7, 9, 16, 25, 30) for sign in (1, -1)]


def moved(*matrix: float) -> Callable[[Image.Image], Image.Image]:
    return lambda image: image.transform(
        image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=RED
    )


PILLOW: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "Identity": lambda image, strength: image,
    "ShearX": lambda image, strength: moved(1, 0.3 * strength, 0, 0, 1, 0)(image),
    "ShearY": lambda image, strength: moved(1, 0, 0, 0.3 * strength, 1, 0)(image),
    "TranslateX": lambda image, strength: moved(1, 0, -int(150 / 331 * SIZE * strength), 0, 1, 0)(image),
    "TranslateY": lambda image, strength: moved(1, 0, 0, 0, 1, -int(150 / 331 * SIZE * strength))(image),
    "Rotate": lambda image, strength: image.rotate(30 * strength, Image.Resampling.BILINEAR, fillcolor=RED),
    "Brightness": lambda image, strength: ImageEnhance.Brightness(image).enhance(1 + 0.9 * strength),
    "Color": lambda image, strength: ImageEnhance.Color(image).enhance(1 + 0.9 * strength),
    "Contrast": lambda image, strength: ImageEnhance.Contrast(image).enhance(1 + 0.9 * strength),
    "Sharpness": lambda image, strength: ImageEnhance.Sharpness(image).enhance(1 + 0.9 * strength),
    "Posterize": lambda image, strength: ImageOps.posterize(image, 8 - round(4 * abs(strength))),
    "Solarize": lambda image, strength: ImageOps.solarize(image, 255 - 255 * abs(strength)),
    "AutoContrast": lambda image, strength: ImageOps.autocontrast(image),
    "Equalize": lambda image, strength: ImageOps.equalize(image),
}
GEOMETRIC = ["ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"]
EXACT = ["Identity", "Posterize", "Solarize", "Equalize"]


def pictures() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    coarse = rng.integers(20, 220, (6, 6, 3), np.uint8)
    photo = cv2.resize(coarse, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
    return {
        "photo": photo,
        "noise": rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8),
        "dark": photo // 4 + 3,
        "flat": np.full((SIZE, SIZE, 3), (7, 7, 200), np.uint8),
        "two levels": (rng.integers(0, 2, (SIZE, SIZE, 3)) * 200).astype(np.uint8),
        "few pixels": rng.integers(0, 256, (17, 17, 3), np.uint8),
    }


def difference(name: str, picture: np.ndarray, strength: float) -> np.ndarray:
    found = OPERATIONS[name](picture.copy(), strength, RED)
    assert (found.shape, found.dtype) == (picture.shape, np.uint8)
    return np.abs(found.astype(int) - np.asarray(PILLOW[name](Image.fromarray(picture), strength)))


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name not in GEOMETRIC])
def test_colours_are_pillows(name: str) -> None:
    limit = 0 if name in EXACT else 1
    for kind, picture in pictures().items():
        for strength in STRENGTHS:
            assert difference(name, picture, strength).max() <= limit, (kind, strength)


@pytest.mark.parametrize("name", GEOMETRIC)
def test_geometry_is_pillows(name: str) -> None:
    """OpenCV samples at 1/32 of a pixel, and mixes the outermost half pixel with what lies outside."""
    inside = Image.fromarray(np.full((SIZE, SIZE, 3), 255, np.uint8))
    for strength in STRENGTHS:
        blue = np.asarray(PILLOW[name](inside, strength))[..., 2]
        sure = cv2.erode(np.pad(blue, 1), np.ones((3, 3)))[1:-1, 1:-1] == 255
        outside = cv2.dilate(blue, np.ones((3, 3))) == 0
        found = difference(name, pictures()["photo"], strength)
        assert sure.mean() > 0.4
        assert found[sure].max() <= 2
        assert not found[outside].any()


@pytest.mark.parametrize("name", GEOMETRIC)
def test_what_comes_from_outside_has_the_background(name: str) -> None:
    found = OPERATIONS[name](np.zeros((SIZE, SIZE, 3), np.uint8), 1.0, (10, 200, 90))
    assert 0.05 < (found == (10, 200, 90)).all(2).mean() < 0.5


def test_all_fourteen_are_there_and_leave_their_input_alone() -> None:
    assert list(OPERATIONS) == list(PILLOW)
    for operation in OPERATIONS.values():
        picture = pictures()["photo"]
        operation(picture, 0.7, RED)
        np.testing.assert_array_equal(picture, pictures()["photo"])


def rng(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def which(found: np.ndarray, strengths: list[float]) -> set[tuple[str, float]]:
    picture = pictures()["photo"]
    return {
        (name, strength)
        for name, operation in OPERATIONS.items()
        for strength in strengths
        if np.array_equal(operation(picture, strength, RED), found)
    }


def test_every_operation_is_drawn_with_both_signs_at_the_magnitude() -> None:
    drawn: dict[tuple[str, float], int] = {}
    augment = RandAugment(num_ops=1, magnitude=21)
    for seed in range(400):
        found = which(augment(pictures()["photo"], rng(seed), RED), [0.7, -0.7])
        assert found, seed
        for one in found:
            drawn[one] = drawn.get(one, 0) + 1
    assert set(drawn) == {(name, strength) for name in OPERATIONS for strength in (0.7, -0.7)}
    assert min(drawn.values()) > 400 / 28 / 3  # 28 pairs, of which those without a sign come up together
    assert max(drawn.values()) < 400 / 14 * 2


def test_operations_follow_one_another() -> None:
    once, twice = RandAugment(num_ops=1, magnitude=30), RandAugment(num_ops=2, magnitude=30)
    for seed in range(10):
        generator = rng(seed)
        expected = once(once(pictures()["photo"], generator, RED), generator, RED)
        np.testing.assert_array_equal(twice(pictures()["photo"], rng(seed), RED), expected)


def test_without_magnitude_all_bins_are_drawn() -> None:
    augment = RandAugment(num_ops=1, magnitude=None, num_magnitude_bins=4)
    strengths = [bin / 3 * sign for bin in range(4) for sign in (1, -1)]
    drawn: set[tuple[str, float]] = set()
    for seed in range(400):
        found = which(augment(pictures()["photo"], rng(seed), RED), strengths)
        assert found, seed
        drawn |= {(name, strength) for name, strength in found if name == "Brightness"}
    assert {round(strength, 3) for _, strength in drawn} == {0, 0.333, 0.667, 1, -0.333, -0.667, -1}


def test_it_shifts_nothing_else() -> None:
    """Where both operations drawn change nothing, the view is the one without RandAugment."""
    picture = pictures()["noise"]
    settings = {"scale": (0.3, 1.0), "flip": 0.5, "rotation": 10, "hue": 0.1, "erasing": 0.5}
    for seed in range(20):
        plain = TrainTransform(32, **settings)(picture, rng(seed))
        unchanged = TrainTransform(32, **settings, randaugment=Nothing())(picture, rng(seed))
        np.testing.assert_array_equal(unchanged, plain)


class Nothing(RandAugment):
    """RandAugment that draws only the identity."""

    def __call__(self, image: np.ndarray, rng: np.random.Generator, background: tuple[int, int, int]) -> np.ndarray:
        super().__call__(image, rng, background)
        return image


def test_it_comes_before_erasing_and_knows_the_background() -> None:
    transform = TrainTransform(32, erasing=1.0, background=RED, randaugment=RandAugment(num_ops=3, magnitude=30))
    for seed in range(20):
        view = transform(np.zeros((40, 40, 3), np.uint8), rng(seed))
        assert (view == np.array(RED)[:, None, None]).all(0).mean() > 0.015


def test_it_changes_views_and_only_by_the_samples_generator() -> None:
    with_it = TrainTransform(32, randaugment=RandAugment())
    picture = pictures()["photo"]
    views = [with_it(picture, rng(seed)) for seed in range(20)]
    assert sum(np.array_equal(view, TrainTransform(32)(picture, rng(seed))) for seed, view in enumerate(views)) < 5
    np.testing.assert_array_equal(views, [with_it(picture, rng(seed)) for seed in range(20)])


@pytest.mark.parametrize("wrong", [{"num_ops": 0}, {"magnitude": 31}, {"magnitude": -1}, {"num_magnitude_bins": 1}])
def test_settings_out_of_range_are_named(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))} = ") as caught:
        RandAugment(**wrong)
    assert caught.value.mend
