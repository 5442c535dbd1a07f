"""What every loader is made to do with a sample: the same decoding, augmentation and batches. Imports no loader."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import simplejpeg
import torch

BATCH = 64
VIEW = 112
WINDOW = 1000
"""Samples in the peers' shuffle buffers; 4,096 in a window of ours and in a block of Streaming's."""


class Pair(NamedTuple):
    """A picture with its caption, as bytes."""

    key: str
    jpg: bytes | memoryview
    txt: bytes | memoryview


def pairs(folder: Path) -> Iterator[Pair]:
    """The pairs in a folder of shards, in order: what the peers' own formats are written from."""
    for shard in sorted(folder.glob("*.tar")):
        with tarfile.open(shard) as tar:
            contents = ((member.name, tar.extractfile(member)) for member in tar)
            for (name, picture), (_, caption) in zip(contents, contents, strict=True):
                assert picture is not None and caption is not None
                yield Pair(name.removesuffix(".jpg"), picture.read(), caption.read())


def size(data: bytes | memoryview) -> int:
    """Length of bytes that were read. A view of a mapped file is copied first: until then nobody has read it."""
    return len(bytes(data))


def encode(pair: Pair, rng: np.random.Generator) -> dict[str, Any]:
    """Decodes a picture, crops 35% to 100% of its area, resizes that to 112 pixels square, and flips half of them."""
    picture = simplejpeg.decode_jpeg(pair.jpg, "RGB", fastdct=False, fastupsample=False)
    area, down, right, flip = rng.random(4)
    height, width = picture.shape[:2]
    scale = np.sqrt(0.35 + 0.65 * area)
    crop_height, crop_width = max(1, int(height * scale)), max(1, int(width * scale))
    top, left = int(down * (height - crop_height + 1)), int(right * (width - crop_width + 1))
    crop = picture[top : top + crop_height, left : left + crop_width]
    view = cv2.resize(crop, (VIEW, VIEW), interpolation=cv2.INTER_LINEAR)
    if flip < 0.5:
        view = view[:, ::-1]
    image = np.ascontiguousarray(view.transpose(2, 0, 1))
    return {"key": pair.key, "image": image, "text": str(pair.txt, "utf-8")}


def collate(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Stacks the pictures, shape (B, 3, 112, 112), and lists the rest."""
    return {
        "key": [item["key"] for item in items],
        "image": torch.from_numpy(np.stack([item["image"] for item in items])),
        "text": [item["text"] for item in items],
    }
