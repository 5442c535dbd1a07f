from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from mmtrain.data import EvalTransform, TrainTransform, image
from mmtrain.data.image import decode
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


@pytest.mark.parametrize("format", ["PNG", "WEBP", "JPEG"])
def test_formats_decode_to_rgb(format: str) -> None:
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}}.get(format, {})
    found = decode(encoded(Image.fromarray(smooth()), format, **options))
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found.astype(int), smooth(), atol=4 if format == "JPEG" else 0)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_what_is_transparent_becomes_white(mode: str) -> None:
    if mode == "P":
        picture = Image.new("P", (4, 4), 0)
        data = encoded(picture, "PNG", transparency=0)
    else:
        data = encoded(Image.new("RGBA", (4, 4), (10, 20, 30, 0)).convert(mode.replace("PA", "LA")), "PNG")
    assert (decode(data) == 255).all()


def test_half_transparent_pixels_mix_with_white() -> None:
    data = encoded(Image.new("RGBA", (2, 2), (0, 0, 0, 51)), "PNG")
    assert (decode(data) == 204).all()


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_jpegs_of_other_colour_spaces_become_rgb(mode: str) -> None:
    picture = Image.fromarray(smooth()).convert(mode)
    found = decode(encoded(picture, "JPEG", quality=95)).astype(int)
    np.testing.assert_allclose(found, np.asarray(picture.convert("RGB")).astype(int), atol=8)


def test_bombs_are_refused_before_they_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "MAX_PIXELS", 64 * 64 - 1)
    for format in ("PNG", "JPEG"):
        with pytest.raises(ValueError, match="64 x 64 pixels is over the bound"):
            decode(encoded(Image.fromarray(smooth()), format))


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("keep", [0, 1, 20, 0.5])
def test_a_damaged_image_is_a_value_error(format: str, keep: float) -> None:
    data = encoded(Image.fromarray(noise()), format)
    for damaged in (data[: int(len(data) * keep) if isinstance(keep, float) else keep], b"GIF89a" + data):
        with pytest.raises(ValueError):  # noqa: PT011 - the reason is the codec's
            decode(damaged)


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
    transform = TrainTransform(32, scale=(0.1, 1.0), **EVERYTHING)
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


def test_jpegs_are_decoded_at_full_quality() -> None:
    data = simplejpeg.encode_jpeg(smooth(), quality=90)
    np.testing.assert_array_equal(decode(data), simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False))
