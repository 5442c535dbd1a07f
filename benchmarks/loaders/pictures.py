"""The pictures that are read: photographs' statistics without photographs.

20,000 JPEGs of 64 to 224 pixels and 10 kB on average, each noise of a 1/f spectrum, with captions of 5 to 24 words, in
tar shards of 900 to 1,100 pairs. Nothing is downloaded, and every machine makes the same set.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from mmtrain.data import build_manifest
from mmtrain.data.shards.manifest import MANIFEST
from mmtrain.data.shards.write import Sample, write_shards

SAMPLES = 20_000
PER_SHARD = 1000
VOCABULARY = (
    "a photo of the red blue small large dog cat tree house on under near with river city bright dark old new street "
    "person walking running sitting table chair window sky cloud mountain"
)


def write(folder: Path, samples: int) -> None:
    """Writes the shards unless they are there, and their indexes and manifest as this version has them."""
    paths = sorted(folder.glob("*.tar")) if (folder / MANIFEST).exists() else _write_shards(folder, samples)
    build_manifest(paths, folder / MANIFEST)


def _write_shards(folder: Path, samples: int) -> list[Path]:
    shards = max(2, samples // PER_SHARD)
    cuts = np.random.default_rng(1).uniform(0.9, 1.1, shards).cumsum()
    ends = [round(cut / cuts[-1] * samples) for cut in cuts]
    paths = []
    for shard, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        [path] = write_shards(list(_pairs(start, end)), folder, f"part{shard:03d}", end - start)
        paths.append(path)
    return paths


def _pairs(start: int, end: int) -> Iterator[Sample]:
    words = VOCABULARY.split()
    for number in range(start, end):
        rng = np.random.default_rng([7, number])
        done, jpg = cv2.imencode(".jpg", _noise(rng), [cv2.IMWRITE_JPEG_QUALITY, 88])
        assert done
        caption = " ".join(words[word] for word in rng.integers(0, len(words), rng.integers(5, 25)))
        yield f"{number:08d}", {"jpg": jpg.tobytes(), "txt": caption.encode()}


def _noise(rng: np.random.Generator) -> np.ndarray:
    """Layers of coarse noise, each smaller where it is finer, as the detail of photographs is."""
    height, width = rng.integers(64, 225, 2)
    picture = 128 + 5 * rng.normal(size=(height, width, 3)).astype(np.float32)
    for cells in (4, 8, 16, 32, 64):
        layer = rng.normal(size=(cells, cells, 3)).astype(np.float32)
        picture += 96 / np.sqrt(cells) * cv2.resize(layer, (int(width), int(height)), interpolation=cv2.INTER_CUBIC)
    return picture.clip(0, 255).astype(np.uint8)
