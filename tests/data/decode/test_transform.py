from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmtrain.data import EvalTransform, TrainTransform
from mmtrain.data.decode import transform as module
from mmtrain.data.decode.codec import decode, decode_jpeg
from mmtrain.data.decode.geometry import planes
from mmtrain.errors import ConfigError

WHOLE: dict[str, Any] = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0)}
EVERYTHING: dict[str, Any] = {
    "flip": 0.5,
    "rotation": 20,
    "translation": 0.1,
    "shear": 10,
    "brightness": 0.4,
    "contrast": 0.4,
    "saturation": 0.4,
    "hue": 0.1,
    "grayscale": 0.2,
    "erasing": 0.5,
}


def noise(height: int = 40, width: int = 40, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def smooth(size: int = 64) -> np.ndarray:
    y, x = np.mgrid[:size, :size] * (200 / size)
    return np.stack([x, y, (x + y) / 2], 2).astype(np.uint8)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def encoded(picture: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def test_the_whole_image_at_its_own_size_is_unchanged() -> None:
    view = TrainTransform(40, **WHOLE)(noise(), rng())
    assert view.flags.c_contiguous
    np.testing.assert_array_equal(view, noise().transpose(2, 0, 1))


def test_a_flip_mirrors() -> None:
    view = TrainTransform(40, **WHOLE, flip=1.0)(noise(), rng())
    np.testing.assert_array_equal(view, noise()[:, ::-1].transpose(2, 0, 1))


def test_a_crop_is_a_part_of_the_image_at_the_drawn_place() -> None:
    transform = TrainTransform(20, scale=(0.25, 0.25), ratio=(1.0, 1.0))
    ramp = np.zeros((41, 41, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(41) * 4, np.arange(41)[:, None] * 4
    views = [transform(ramp, rng(seed)).astype(float) for seed in range(200)]
    steps = np.diff([view[0, 0] for view in views])
    np.testing.assert_allclose(steps, 4 * 41 / 2 / 20, atol=1.01)  # half the side, over 20 pixels
    lefts = np.array([view[0, 0, 0] for view in views]) / 4
    tops = np.array([view[1, 0, 0] for view in views]) / 4
    for corner in (lefts, tops):
        assert corner.min() < 1.5
        assert corner.max() > 41 / 2 - 1.5
    assert abs(np.corrcoef(lefts, tops)[0, 1]) < 0.3


def test_outside_the_image_lies_the_background() -> None:
    black = np.zeros((32, 32, 3), np.uint8)
    view = TrainTransform(32, **WHOLE, rotation=45, background=(255, 128, 0))(black, rng(3))
    corners = view[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners == np.array([[255], [128], [0]])).all(0).any()


def test_a_large_image_is_shrunk_without_aliasing() -> None:
    board = np.indices((256, 256)).sum(0)[..., None].repeat(3, 2) % 2 * np.uint8(255)
    view = TrainTransform(32, **WHOLE, rotation=5)(board.astype(np.uint8), rng()).astype(int)
    assert np.abs(view[:, 4:-4, 4:-4] - 128).max() < 24


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (7, 2000), (33, 31)])
def test_any_shape_gives_a_full_view(shape: tuple[int, int]) -> None:
    for settings in ({}, EVERYTHING):
        transform = TrainTransform(32, scale=(0.1, 1.0), **settings)
        for seed in range(20):
            view = transform(noise(*shape), rng(seed))
            assert (view.shape, view.dtype) == ((3, 32, 32), np.uint8)
    assert EvalTransform(32)(noise(*shape)).shape == (3, 32, 32)


def test_every_call_takes_the_same_draws_whatever_is_on() -> None:
    plain, full = rng(), rng()
    for seed in range(30):
        TrainTransform(16)(noise(seed=seed), plain)
        TrainTransform(16, **EVERYTHING)(noise(20, 30, seed), full)
    assert plain.random() == full.random()


def test_switching_one_thing_on_shifts_nothing_else() -> None:
    for seed in range(20):
        plain = TrainTransform(16, scale=(0.3, 1.0), flip=0.5)(noise(), rng(seed))
        erased = TrainTransform(16, scale=(0.3, 1.0), flip=0.5, erasing=1.0)(noise(), rng(seed))
        kept = (erased == plain).all(0)
        assert 0.5 < kept.mean() < 1


def test_grayscale_makes_channels_equal_and_keeps_luma() -> None:
    view = TrainTransform(64, **WHOLE, grayscale=1.0)(smooth(), rng()).astype(float)
    luma = smooth() @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(view, np.broadcast_to(luma, (3, 64, 64)), atol=1)


def recoloured(seed: int, **options: float) -> np.ndarray:
    return TrainTransform(64, **WHOLE, **options)(smooth() // 2 + 32, rng(seed)).astype(float)


def test_brightness_scales_and_contrast_keeps_the_mean() -> None:
    plain = recoloured(0)
    factors = [recoloured(seed, brightness=0.4).mean() / plain.mean() for seed in range(40)]
    assert 0.6 <= min(factors) < 0.7
    assert 1.3 < max(factors) <= 1.4
    for seed in range(10):
        view = recoloured(seed, contrast=0.5)
        assert np.tensordot([0.299, 0.587, 0.114], view - plain, 1).mean() == pytest.approx(0, abs=0.6)
        assert view.std() != pytest.approx(plain.std(), rel=0.01)


def test_hue_turns_colours_and_keeps_luma() -> None:
    red = np.full((16, 16, 3), (160, 80, 80), np.uint8)
    views = [TrainTransform(16, **WHOLE, hue=0.5)(red, rng(seed))[:, 0, 0].astype(float) for seed in range(40)]
    np.testing.assert_allclose([view @ [0.299, 0.587, 0.114] for view in views], 160 * 0.299 + 80 * 0.701, atol=1.1)
    assert {int(np.argmax(view)) for view in views} == {0, 1, 2}
    chroma = np.array(views) @ np.array([[0.596, -0.274, -0.322], [0.211, -0.523, 0.312]]).T
    np.testing.assert_allclose(np.hypot(*chroma.T), np.hypot(0.596 * 80, 0.211 * 80), atol=1.5)


def test_the_evaluation_view_is_the_resized_centre() -> None:
    wide = np.zeros((50, 100, 3), np.uint8)
    wide[:, 25:75] = smooth(50)
    view = EvalTransform(25)(wide)
    expected = np.asarray(Image.fromarray(wide).resize((50, 25), Image.Resampling.BICUBIC))[:, 12:37]
    np.testing.assert_array_equal(view, expected.transpose(2, 0, 1))
    np.testing.assert_array_equal(EvalTransform(40)(noise()), noise().transpose(2, 0, 1))


@pytest.mark.parametrize(
    "wrong",
    [{"flip": 1.5}, {"scale": (0.9, 0.5)}, {"scale": (0.5, 2.0)}, {"hue": 0.7}, {"ratio": (0, 1)}, {"shear": 90}],
)
def test_settings_out_of_range_are_named(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ConfigError, match=f"{name} = "):
        TrainTransform(16, **wrong)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("settings", [{"flip": 0.5}, EVERYTHING])
def test_encoded_images_and_their_pixels_give_the_same_view(format: str, settings: dict[str, Any]) -> None:
    data = encoded(Image.fromarray(noise(40, 50)), format)
    transform = TrainTransform(32, scale=(0.7, 1.0), **settings)
    for seed in range(10):
        np.testing.assert_array_equal(transform(data, rng(seed)), transform(decode(data), rng(seed)))
    np.testing.assert_array_equal(EvalTransform(16)(data), EvalTransform(16)(decode(data)))


def photo(height: int, width: int) -> Image.Image:
    return Image.fromarray(noise(9, 12)).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("rotation", [0, 10])
@pytest.mark.parametrize(("side", "shrink"), [(63, 1), (64, 2), (127, 2), (128, 4), (256, 8), (2000, 8)])
def test_a_jpeg_is_decoded_no_larger_than_its_crop_needs(
    side: int, shrink: int, rotation: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def spy(data: bytes, shrink: int = 1) -> np.ndarray:
        asked.append(shrink)
        return decode_jpeg(data, shrink)

    monkeypatch.setattr(module, "decode_jpeg", spy)
    TrainTransform(32, **WHOLE, rotation=rotation)(encoded(photo(side, side), "JPEG"), rng())
    assert asked == [shrink]


@pytest.mark.parametrize(
    ("limit", "settings"),
    [(0.9, {"flip": 0.5}), (0.3, {"flip": 0.5, "rotation": 15, "translation": 0.1, "shear": 5})],
)
def test_a_jpeg_at_a_fraction_shows_the_same_view(limit: float, settings: dict[str, Any]) -> None:
    """Up to half a pixel along both axes where crops lie on whole pixels, and to the mix with what is outside."""
    data = encoded(photo(411, 533), "JPEG", quality=95)
    transform = TrainTransform(32, scale=(0.2, 1.0), **settings)
    for seed in range(20):
        scaled, whole = transform(data, rng(seed)).astype(float), transform(decode(data), rng(seed)).astype(float)
        assert np.abs(scaled - whole).mean() < limit * np.abs(np.diff(whole)).mean()


def test_evaluation_decodes_jpegs_whole() -> None:
    data = encoded(photo(300, 300), "JPEG")
    np.testing.assert_array_equal(EvalTransform(16)(data), EvalTransform(16)(decode(data)))


@pytest.mark.parametrize("settings", [{}, {"flip": 1.0}])
def test_without_rotation_a_view_is_that_of_a_warp(settings: dict[str, Any]) -> None:
    """A rotation too small to see takes the other path; crops on whole pixels agree with it."""
    for height, width in ((64, 64), (64, 48), (200, 160)):
        picture = np.asarray(photo(height, width))
        upright = TrainTransform(32, scale=(1.0, 1.0), ratio=(width / height,) * 2, **settings)
        turned = TrainTransform(32, scale=(1.0, 1.0), ratio=(width / height,) * 2, rotation=1e-6, **settings)
        found, expected = upright(picture, rng()).astype(int), turned(picture, rng()).astype(int)
        np.testing.assert_allclose(found[:, 1:-1, 1:-1], expected[:, 1:-1, 1:-1], atol=2)


@pytest.mark.parametrize("rotation", [0, 5])
@pytest.mark.parametrize(("height", "width"), [(256, 256), (131, 257), (257, 60), (70, 65)])
def test_a_pattern_finer_than_the_view_becomes_gray(height: int, width: int, rotation: float) -> None:
    board = (np.indices((height, width)).sum(0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, 2)
    transform = TrainTransform(32, scale=(1.0, 1.0), ratio=(width / height,) * 2, rotation=rotation)
    view = transform(board, rng()).astype(int)
    assert np.abs(view[:, 4:-4, 4:-4] - 128).max() < 24


def test_shrunk_views_reach_their_edges_without_background() -> None:
    """Halving mixes neighbours from outside the view into it, not the background."""
    transform = TrainTransform(16, scale=(0.3, 0.3), ratio=(1.0, 1.0), rotation=5, background=(255, 0, 0))
    black = np.zeros((500, 500, 3), np.uint8)
    clean = [not transform(black, rng(seed)).any() for seed in range(40)]
    assert np.mean(clean) > 0.5  # of the others the turned corners leave the image


def test_views_of_one_pixel_are_possible() -> None:
    for rotation in (0, 20):
        assert TrainTransform(1, rotation=rotation)(noise(50, 70), rng()).shape == (3, 1, 1)


def test_pixels_that_are_handed_in_stay_as_they_are() -> None:
    picture = noise()
    for settings in ({}, {"flip": 1.0}, EVERYTHING):
        TrainTransform(40, **{**settings, **WHOLE, "erasing": 1.0})(picture, rng())
    np.testing.assert_array_equal(picture, noise())


def test_planes_are_a_copy_in_the_layout_of_tensors() -> None:
    view = noise(5, 7)
    found = planes(view)
    np.testing.assert_array_equal(found, view.transpose(2, 0, 1))
    assert found.flags.c_contiguous
    found[:] = 0
    np.testing.assert_array_equal(view, noise(5, 7))
    np.testing.assert_array_equal(planes(view[:, ::-1]), view[:, ::-1].transpose(2, 0, 1))
