"""Drawings of houses, trees and boats, which have an upper side: a data set that needs no network."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from mmtrain.data.prepare import MARKER, prepare_once
from mmtrain.data.shards.build import build_manifest
from mmtrain.data.shards.write import Sample, write_shards

CLASSES = ("house", "tree", "boat")
SIZE = 32
SAMPLES_PER_SHARD = 256


class Drawings:
    """A source for ``mmtrain.data.labelled_images``: it fills a folder with shards, once.

    Args:
        train: Drawings to train on.
        test: Further ones to evaluate on.
    """

    def __init__(self, train: int = 1024, test: int = 256) -> None:
        self.sizes = {"train": train, "test": test}

    @property
    def eval_sets(self) -> tuple[str, ...]:
        """``test``."""
        return ("test",)

    def prepare(self, root: Path) -> None:
        """Writes ``root/train`` and ``root/test``, unless they stand there.

        Raises:
            DataError: ``root`` holds something else.
        """
        prepare_once(root, self._make)

    def _make(self, root: Path) -> None:
        first = 0
        for split, size in self.sizes.items():
            samples = [drawing(number) for number in range(first, first + size)]
            paths = write_shards(samples, root / split, f"drawings-{split}", SAMPLES_PER_SHARD)
            build_manifest(paths, root / split / "manifest.json")
            (root / split / "classes.json").write_text(json.dumps({"classes": CLASSES}))
            first += size
        (root / "README.md").write_text(f"# Drawings\n\n{self.sizes}, drawn by `rotnet.drawings`; CC0.\n")
        (root / MARKER).write_text(json.dumps({"made_from": {"source": "drawings", "sizes": self.sizes}}))


def drawing(number: int) -> Sample:
    """A drawing and its class, which are a function of its number."""
    draw = np.random.Generator(np.random.Philox(number)).integers
    label = number % len(CLASSES)
    paper, ink, other = (tuple(int(value) for value in draw(low, low + 96, 3)) for low in (160, 0, 60))
    picture = np.full((SIZE, SIZE, 3), paper, np.uint8)
    x, y, half = int(draw(11, 21)), int(draw(13, 19)), int(draw(5, 9))
    roof = np.array([(x - half, y), (x + half, y), (x, y - half)], np.int32)
    if CLASSES[label] == "house":
        cv2.rectangle(picture, (x - half + 1, y), (x + half - 1, y + half), ink, -1)
        cv2.fillPoly(picture, [roof], other)
    elif CLASSES[label] == "tree":
        cv2.rectangle(picture, (x - 1, y), (x + 1, y + half), ink, -1)
        cv2.circle(picture, (x, y - half // 2), half, other, -1)
    else:
        cv2.fillPoly(picture, [roof], other)
        cv2.ellipse(picture, (x, y + 1), (half + 2, half), 0, 0, 180, ink, -1)
    done, png = cv2.imencode(".png", picture)
    assert done, "every picture of bytes can be encoded"
    return f"{number:06d}", {"png": png.tobytes(), "cls": str(label).encode()}
