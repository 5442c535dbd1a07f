"""webdataset: a shuffle of shards and a buffer; sequential reads of tar files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import webdataset as wds

from loaders.pipeline import BATCH, WINDOW, Pair, collate, encode, size


def prepare(tar: Path, out: Path) -> None:
    """Reads the shards as they are."""


def raw(tar: Path, prepared: Path) -> Iterator[int]:
    return (size(sample["jpg"]) for sample in _shuffled(tar))


def batches(tar: Path, prepared: Path, workers: int) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(0)
    encoded = _shuffled(tar).map(lambda sample: encode(Pair(sample["__key__"], sample["jpg"], sample["txt"]), rng))
    return iter(wds.WebLoader(encoded.batched(BATCH, collation_fn=collate), batch_size=None, num_workers=workers))


def _shuffled(tar: Path) -> wds.WebDataset:
    urls = sorted(map(str, tar.glob("*.tar")))
    split = wds.split_by_worker
    data = wds.WebDataset(urls, shardshuffle=len(urls), workersplitter=split, seed=1, empty_check=False)
    return data.shuffle(WINDOW)
