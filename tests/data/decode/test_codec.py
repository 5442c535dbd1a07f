from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from mmtrain.data.decode import codec
from mmtrain.data.decode.codec import decode, decode_jpeg, jpeg_size


def noise(height: int = 40, width: int = 40, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def smooth(size: int = 64) -> np.ndarray:
    y, x = np.mgrid[:size, :size] * (200 / size)
    return np.stack([x, y, (x + y) / 2], 2).astype(np.uint8)


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
    monkeypatch.setattr(codec, "MAX_PIXELS", 64 * 64 - 1)
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


def test_jpegs_are_decoded_at_full_quality() -> None:
    data = simplejpeg.encode_jpeg(smooth(), quality=90)
    np.testing.assert_array_equal(decode(data), simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False))


def bytes_of(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def png(depth: int, colour: int, rows: np.ndarray, width: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of any depth and colour type, from its rows of bytes."""
    header = struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0)
    packed = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    parts = [(b"IHDR", header), *chunks, (b"IDAT", packed), (b"IEND", b"")]
    sums = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(sums)


def pngs() -> dict[str, bytes]:
    rgb, rgba = Image.fromarray(bytes_of(9, 16, 3)), Image.fromarray(bytes_of(9, 16, 4))
    gray, few = Image.fromarray(bytes_of(9, 16)), Image.fromarray(bytes_of(9, 16) % 4)
    palette = rgb.quantize(16)
    turned = Image.Exif()
    turned[0x112] = 6
    return {
        "RGB": encoded(rgb, "PNG"),
        "RGBA": encoded(rgba, "PNG"),
        "gray": encoded(gray, "PNG"),
        "gray and alpha": encoded(Image.merge("LA", [gray, few]), "PNG"),
        "1 bit": encoded(gray.convert("1"), "PNG"),
        "2 bits": png(2, 0, bytes_of(9, 4), 16),
        "4 bits": png(4, 0, bytes_of(9, 8), 16),
        "palette of 4 bits": encoded(palette, "PNG"),
        "palette of 8 bits": encoded(Image.fromarray(bytes_of(40, 40, 3)).quantize(200), "PNG"),
        "palette, one transparent": encoded(palette, "PNG", transparency=3),
        "palette with alphas": encoded(palette, "PNG", transparency=bytes(range(0, 256, 16))),
        "gray, one transparent": encoded(few, "PNG", transparency=2),
        "RGB, one transparent": encoded(Image.fromarray(bytes_of(9, 16, 3) % 2), "PNG", transparency=(1, 0, 1)),
        "RGB of 16 bits": png(16, 2, bytes_of(9, 16 * 6), 16),
        "RGBA of 16 bits": png(16, 6, bytes_of(9, 16 * 8), 16),
        "gray and alpha of 16 bits": png(16, 4, bytes_of(9, 16 * 4), 16),
        "gamma": png(8, 2, bytes_of(9, 16 * 3), 16, (b"gAMA", struct.pack(">I", 100_000))),
        "turned by EXIF": encoded(rgb, "PNG", exif=turned),
        "animated": encoded(rgb, "PNG", save_all=True, append_images=[Image.new("RGB", rgb.size)]),
    }


@pytest.mark.parametrize("kind", pngs())
def test_png_pixels_are_pillows(kind: str) -> None:
    with Image.open(io.BytesIO(pngs()[kind])) as image:
        picture = image.convert("RGBA")
    expected = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    np.testing.assert_array_equal(decode(pngs()[kind]), np.asarray(expected))


def test_every_alpha_mixes_as_in_pillow() -> None:
    levels, alphas = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    picture = Image.fromarray(np.dstack([levels, 255 - levels, levels // 2, alphas]))
    expected = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    np.testing.assert_array_equal(decode(encoded(picture, "PNG")), np.asarray(expected))


def test_gray_pngs_of_16_bits_keep_their_high_byte() -> None:
    """Pillow would make all of them white that exceed 255."""
    rows = bytes_of(9, 32)
    np.testing.assert_array_equal(decode(png(16, 0, rows, 16)), rows[:, ::2, None].repeat(3, 2))


def test_no_format_applies_the_orientation_of_exif() -> None:
    turned = Image.Exif()
    turned[0x112] = 6
    for format in ("PNG", "JPEG", "WEBP"):
        assert decode(encoded(Image.fromarray(noise(20, 30)), format, exif=turned)).shape == (20, 30, 3)


def test_flipped_bits_of_a_png_are_found() -> None:
    data = bytearray(encoded(Image.fromarray(noise()), "PNG"))
    for place in range(60, len(data) - 20, 97):
        data[place] ^= 4
        with pytest.raises(ValueError, match="not a usable image"):
            decode(bytes(data))
        data[place] ^= 4
    assert (decode(bytes(data)) == noise()).all()


@pytest.mark.parametrize("shrink", [1, 2, 4, 8])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": "4:2:0"}])
def test_a_jpeg_is_decoded_at_a_fraction(shrink: int, options: dict[str, Any]) -> None:
    picture = Image.fromarray(smooth(101)).resize((131, 101), Image.Resampling.BILINEAR)
    data = encoded(picture, "JPEG", quality=95, **options)
    found = decode_jpeg(data, shrink)
    assert found.shape == (-(-101 // shrink), -(-131 // shrink), 3)
    whole = np.asarray(picture)[: 101 // shrink * shrink, : 131 // shrink * shrink].astype(float)
    means = whole.reshape(101 // shrink, shrink, 131 // shrink, shrink, 3).mean((1, 3))
    np.testing.assert_allclose(found[: 101 // shrink, : 131 // shrink], means, atol=6)


def test_the_size_of_a_jpeg_is_its_headers() -> None:
    data = encoded(Image.fromarray(noise(20, 30)), "JPEG")
    assert jpeg_size(data) == (20, 30)
    with pytest.raises(ValueError):  # noqa: PT011 - the reason is the codec's
        jpeg_size(data[:40])
