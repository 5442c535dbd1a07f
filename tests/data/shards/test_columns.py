from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mmtrain.data.shards.columns import height, num_tokens, text_length, width


def encoded(extension: str, size: tuple[int, int], **options: object) -> bytes:
    file = io.BytesIO()
    format = {"jpg": "JPEG", "jpeg": "JPEG"}.get(extension, extension.upper())
    Image.effect_noise(size, 90).convert("RGB").save(file, format, **options)
    return file.getvalue()


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (640, 33)])
@pytest.mark.parametrize(
    ("extension", "options"),
    [
        ("jpg", {}),
        ("jpeg", {"progressive": True, "exif": b"Exif\0\0" + bytes(3000)}),
        ("jpg", {"icc_profile": bytes(70_000), "optimize": True}),
        ("png", {}),
        ("webp", {}),
        ("webp", {"lossless": True}),
        ("webp", {"exif": b"Exif\0\0" + bytes(30)}),
    ],
)
def test_a_pictures_size_is_read_from_its_header(
    extension: str, options: dict[str, object], size: tuple[int, int]
) -> None:
    raw = {"__key__": "k", extension: encoded(extension, size, **options)}
    assert (width(raw), height(raw)) == size


@pytest.mark.parametrize("marker", [0xC4, 0xC8, 0xCC])
def test_a_table_in_front_of_a_jpegs_frame_is_stepped_over(marker: int) -> None:
    picture = encoded("jpg", (40, 30))
    table = bytes([0xFF, marker, 0, 12]) + bytes(range(10))
    assert width({"jpg": picture[:2] + table + picture[2:]}) == 40


def test_the_format_is_told_by_the_content() -> None:
    assert width({"jpg": encoded("png", (12, 3))}) == 12


def test_a_sample_without_a_readable_picture_has_size_0() -> None:
    assert width({"txt": b"no picture"}) == height({"jpg": b"no picture"}) == 0


@pytest.mark.parametrize("extension", ["jpg", "png", "webp"])
@given(data=st.data())
def test_a_damaged_picture_has_some_size(extension: str, data: st.DataObject) -> None:
    picture = bytearray(encoded(extension, (40, 30), **({"exif": b"Exif\0\0"} if extension == "webp" else {}))[:200])
    for _ in range(data.draw(st.integers(0, 4))):
        picture[data.draw(st.integers(0, len(picture) - 1))] = data.draw(st.integers(0, 255))
    raw = {extension: bytes(picture[: data.draw(st.integers(0, len(picture)))])}
    assert 0 <= width(raw) < 2**32 and 0 <= height(raw) < 2**32


def test_characters_are_counted_and_not_bytes() -> None:
    assert text_length({"txt": "süß 🙂".encode()}) == 5
    assert text_length({"txt": b"\xff\xff"}) == 2
    assert text_length({"jpg": b"x"}) == 0


def test_tokens_are_counted() -> None:
    ids = np.arange(7)
    assert num_tokens({"u16": ids.astype("<u2").tobytes()}) == num_tokens({"u32": ids.astype("<u4").tobytes()}) == 7
    assert num_tokens({"txt": b"x"}) == 0
