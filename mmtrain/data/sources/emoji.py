"""Emoji: 1,889 concepts, each named and drawn in two art styles; small enough to train CLIP in minutes.

The two styles tell two kinds of generalisation apart: a known concept in a style that it was never seen in
(``new_style``), and a concept that was never seen at all (``new_concept``).
"""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import PIL
from PIL import Image
from rich.console import Console
from rich.progress import track

from mmtrain.data.prepare import MARKER, prepare_once
from mmtrain.data.shards.build import build_manifest
from mmtrain.data.shards.write import Sample, write_shards
from mmtrain.data.sources import EvalSpec
from mmtrain.data.sources.emoji_card import write_card
from mmtrain.data.sources.emoji_concepts import ARCHIVES, Concept, Painter, read_concepts
from mmtrain.errors import ConfigError, DataError

VERSION = 1
"""To be raised whenever the same archives would give other shards."""

SPLITS = ("train", "new_style", "new_concept")
STYLES = ("twemoji", "openmoji")
SAMPLES_PER_SHARD = 512
NEW_CONCEPT_BELOW, NEW_STYLE_BELOW = 0.10, 0.30


def split_of(codepoints: str, style: str) -> str:
    """Returns the split of a concept's picture in ``style``.

    The first 8 bytes of the concept's hash, as a fraction, decide: they never change, and depend on no other concept.
    Below 0.10 both pictures are ``new_concept``; from there to 0.30 the OpenMoji picture is ``new_style``.
    """
    fraction = int.from_bytes(hashlib.sha256(f"mmtrain-emoji-v1:{codepoints}".encode()).digest()[:8], "big") / 2**64
    if fraction < NEW_CONCEPT_BELOW:
        return "new_concept"
    return "new_style" if style == "openmoji" and fraction < NEW_STYLE_BELOW else "train"


class Emoji:
    """The emoji data set: shards, class names and a data card, made from four pinned archives.

    Args:
        image_size: Height and width of the pictures: 72, Twemoji's own, or 64.
        cache_dir: Where the archives are kept; the default cache if None.

    Raises:
        ConfigError: There are no pictures of this size.
    """

    def __init__(self, image_size: int = 72, cache_dir: str | Path | None = None) -> None:
        if image_size not in (64, 72):
            raise ConfigError(f"emoji pictures come in image_size 64 or 72, not {image_size}")
        self.image_size = image_size
        self.cache_dir = None if cache_dir is None else Path(cache_dir)

    @property
    def name(self) -> str:
        """``emoji``."""
        return "emoji"

    @property
    def eval_sets(self) -> dict[str, EvalSpec]:
        """``new_style``, classified among all concepts of ``train``, and ``new_concept``, retrieved."""
        return {
            "new_style": EvalSpec("new_style", "zeroshot"),
            "new_concept": EvalSpec("new_concept", "retrieval"),
        }

    def prepare(self, root: Path) -> None:
        """Makes the data set in ``root``, unless it stands there; about 20 s, once the archives are at hand.

        Raises:
            DataError: An archive cannot be had, or ``root`` holds anything else than this data set.
        """
        prepare_once(root, self._make)
        found = json.loads((root / MARKER).read_text(encoding="utf-8")).get("made_from", {})
        wanted = self._made_from()
        differing = [
            f"{key} {found.get(key)!r}, not {wanted[key]!r}" for key in wanted if found.get(key) != wanted[key]
        ]
        if differing:
            raise DataError(
                f"this folder was made with {'; '.join(differing)}",
                where=str(root / MARKER),
                mend="name another folder, or move this one away and prepare it again",
            )

    def _made_from(self) -> dict[str, Any]:
        """All that decides what a prepared folder holds, but for Pillow's rendering."""
        archives = {archive.requirement: archive.sha256 for archive in ARCHIVES}
        return {"source": self.name, "version": VERSION, "image_size": self.image_size, "archives": archives}

    def _make(self, root: Path) -> None:
        concepts = read_concepts(self.cache_dir)
        pictures = self._draw(concepts)
        category_names = sorted({concept.category for concept in concepts})
        made = {}
        for split in SPLITS:
            drawn = "train" if split == "new_style" else split  # where the concepts' Twemoji pictures are
            classes = [concept for concept in concepts if split_of(concept.codepoints, "twemoji") == drawn]
            samples = [
                _sample(concept, style, label, category_names, pictures[concept.codepoints, style])
                for label, concept in enumerate(classes)
                for style in STYLES
                if split_of(concept.codepoints, style) == split
            ]
            # By hash, so that a shard holds a bit of everything and a shuffle within a window is a real one.
            samples.sort(key=lambda sample: hashlib.sha256(sample[0].encode()).digest())
            paths = write_shards(samples, root / split, f"{self.name}-{split}", SAMPLES_PER_SHARD)
            build_manifest(paths, root / split / "manifest.json")
            _write_json(root / split / "classes.json", _class_names(classes, category_names))
            made[split] = {"samples": len(samples), "classes": len(classes), "shards": len(paths)}
        marker = {"made_from": self._made_from(), "made_with": {"pillow": PIL.__version__}, "splits": made}
        write_card(root, concepts, pictures, split_of, marker)
        _write_json(root / MARKER, marker)

    def _draw(self, concepts: list[Concept]) -> dict[tuple[str, str], bytes]:
        """Returns every picture as a PNG file, by the concept's codepoints and the style."""
        painter = Painter(self.image_size, self.cache_dir)
        console = Console(stderr=True)
        pictures = {}
        bar = track(concepts, "Drawing emoji", console=console, transient=True, disable=not console.is_terminal)
        for concept in bar:
            pictures[concept.codepoints, "twemoji"] = _png(painter.twemoji(concept))
            pictures[concept.codepoints, "openmoji"] = _png(painter.openmoji(concept))
        return pictures


def _sample(concept: Concept, style: str, label: int, category_names: list[str], picture: bytes) -> Sample:
    record = {
        "label": label,
        "concept": concept.caption,
        "keywords": concept.keywords,
        "category": category_names.index(concept.category),
        "category_name": concept.category,
        "subcategory": concept.subcategory,
        "style": style,
        "codepoints": concept.codepoints,
    }
    members = {"png": picture, "txt": concept.caption.encode(), "json": json.dumps(record, ensure_ascii=False).encode()}
    return f"{concept.codepoints}_{style}", members


def _class_names(classes: list[Concept], category_names: list[str]) -> dict[str, Any]:
    """What a sample's ``label`` and ``category`` number."""
    return {
        "classes": [concept.caption for concept in classes],
        "categories": [category_names.index(concept.category) for concept in classes],
        "category_names": category_names,
    }


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=9)
    return buffer.getvalue()


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
