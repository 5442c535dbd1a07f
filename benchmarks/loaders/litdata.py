"""LitData: chunks of its own format, shuffled within and among themselves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from litdata import StreamingDataLoader, StreamingDataset, optimize

from loaders.pipeline import BATCH, Pair, collate, encode, pairs, size


def prepare(tar: Path, out: Path) -> None:
    """Writes 16 MB chunks."""
    optimize(fn=_fields, inputs=list(pairs(tar)), output_dir=str(out), chunk_bytes="16MB", num_workers=1)


def raw(tar: Path, prepared: Path) -> Iterator[int]:
    return (size(sample["jpg"]) for sample in StreamingDataset(input_dir=str(prepared), shuffle=True, seed=1))


def batches(tar: Path, prepared: Path, workers: int) -> Iterator[dict[str, Any]]:
    data = _Encoded(input_dir=str(prepared), shuffle=True, seed=1)
    return iter(StreamingDataLoader(data, batch_size=BATCH, num_workers=workers, collate_fn=collate))


def _fields(pair: Pair) -> dict[str, Any]:
    return pair._asdict()


class _Encoded(StreamingDataset):
    _rng = np.random.default_rng(0)

    def __getitem__(self, index: Any) -> dict[str, Any]:
        return encode(Pair(**super().__getitem__(index)), self._rng)
