"""MosaicML Streaming: MDS shards, shuffled in blocks by its default algorithm."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from streaming import MDSWriter, StreamingDataLoader, StreamingDataset
from streaming.base.util import clean_stale_shared_memory

from loaders.pipeline import BATCH, Pair, collate, encode, pairs, size


def prepare(tar: Path, out: Path) -> None:
    with MDSWriter(out=str(out), columns={"key": "str", "jpg": "bytes", "txt": "bytes"}, size_limit="16mb") as writer:
        for pair in pairs(tar):
            writer.write(pair._asdict())


def raw(tar: Path, prepared: Path) -> Iterator[int]:
    return (size(sample["jpg"]) for sample in _open(StreamingDataset, prepared))


def batches(tar: Path, prepared: Path, workers: int) -> Iterator[dict[str, Any]]:
    data = _open(_Encoded, prepared)
    return iter(StreamingDataLoader(data, batch_size=BATCH, num_workers=workers, collate_fn=collate))


class _Encoded(StreamingDataset):
    _rng = np.random.default_rng(0)

    def __getitem__(self, at: Any) -> Any:
        return encode(Pair(**super().__getitem__(at)), self._rng)


def _open(kind: type[StreamingDataset], prepared: Path) -> StreamingDataset:
    clean_stale_shared_memory()
    shuffle = {"shuffle": True, "shuffle_seed": 1, "shuffle_block_size": 4096, "num_canonical_nodes": 1}
    return kind(local=str(prepared), batch_size=BATCH, **shuffle)
