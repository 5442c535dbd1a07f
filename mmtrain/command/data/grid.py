"""Samples as a picture: thumbnails in rows, each above its caption."""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from mmtrain.data import RawSample
from mmtrain.data.shards.columns import IMAGES

_SIDE = 160  # pixels of a thumbnail's longer side
_MARGIN = 8
_LINES = 3
_COLUMNS = 6
_FONT_SIZE = 12
_MAX_PIXELS = 64 * 10**6
_PAPER, _INK, _ABSENT = "white", "black", "lightgrey"


def draw_grid(samples: Sequence[tuple[RawSample, str]]) -> Image.Image:
    """Draws samples with their captions, six in a row.

    A picture that is missing or cannot be decoded leaves a grey field, which says why.
    """
    font = ImageFont.load_default(_FONT_SIZE)
    line = _FONT_SIZE + 4
    cell_width, cell_height = _SIDE + _MARGIN, _SIDE + _LINES * line + 2 * _MARGIN
    columns = max(1, min(_COLUMNS, len(samples)))
    rows = max(1, -(-len(samples) // columns))
    grid = Image.new("RGB", (columns * cell_width + _MARGIN, rows * cell_height + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(grid)
    for number, (sample, caption) in enumerate(samples):
        left = _MARGIN + number % columns * cell_width
        top = _MARGIN + number // columns * cell_height
        picture = _thumbnail(sample, font)
        grid.paste(picture, (left + (_SIDE - picture.width) // 2, top + (_SIDE - picture.height) // 2))
        for row, text in enumerate(_wrap(caption, font)):
            draw.text((left, top + _SIDE + _MARGIN // 2 + row * line), text, _INK, font)
    return grid


def _thumbnail(sample: RawSample, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> Image.Image:
    data = next((sample[extension] for extension in IMAGES if extension in sample), None)
    if data is None:
        return _grey("no picture", font)
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(data)) as picture:
            warnings.simplefilter("ignore")  # Pillow warns of large pictures, which are bounded here
            if picture.width * picture.height > _MAX_PIXELS:
                return _grey(f"{picture.width} x {picture.height}", font)
            picture.draft("RGB", (_SIDE, _SIDE))
            rgba = picture.convert("RGBA")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return _grey("cannot be decoded", font)
    # Small pictures are enlarged, up to four times and without smoothing, so that their pixels can be told.
    scale = _SIDE / max(rgba.size)
    if scale > 1:
        scale = min(4, max(1, int(scale)))
    size = (max(1, round(rgba.width * scale)), max(1, round(rgba.height * scale)))
    rgba = rgba.resize(size, Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS)
    paper = Image.new("RGBA", rgba.size, _PAPER)
    return Image.alpha_composite(paper, rgba).convert("RGB")


def _grey(reason: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> Image.Image:
    field = Image.new("RGB", (_SIDE, _SIDE), _ABSENT)
    ImageDraw.Draw(field).text((_MARGIN, _SIDE // 2), reason, _INK, font)
    return field


def _wrap(caption: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """The caption in lines as wide as a thumbnail."""
    characters = max(8, int(_SIDE / max(1.0, font.getlength("n"))))
    lines = textwrap.wrap(caption[: characters * _LINES * 2], characters, max_lines=_LINES, placeholder=" ...")
    return ["".join(sign for sign in text if sign.isprintable()) for text in lines]
