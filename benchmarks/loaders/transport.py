"""CPU time of bringing a batch of 64 pictures (2.4 MB) from a worker process, beyond the time of filling it."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from loaders.measure import cpu_seconds
from loaders.pipeline import BATCH, VIEW
from mmtrain.data import EpochPlan, Loader, Share
from mmtrain.data.loader.batch import WEIGHT, Arrays, Field, Rows, Status

SHAPE = (3, VIEW, VIEW)


class _Filled:
    """Batches of one fixed content, as a `mmtrain.data.loader.batch.Maker`."""

    fingerprint = "synthetic"

    def __init__(self) -> None:
        self._content = _content()

    def fields(self, share: Share) -> dict[str, Field]:
        return {"image": Field(SHAPE, np.dtype(np.uint8)), WEIGHT: Field((), np.dtype(np.float32))}

    def fill(self, share: Share, arrays: Arrays, status: Status) -> Rows:
        arrays["image"][:] = self._content[: len(share)]
        return Rows({}, [])

    def where(self, source: int, sample: int) -> str:
        return "nowhere"


class _Copies(Dataset[torch.Tensor]):
    """The same batches for torch's loader: an array of its own for each, as stacking makes."""

    def __init__(self, batches: int) -> None:
        self._content = _content()
        self._batches = batches

    def __len__(self) -> int:
        return self._batches

    def __getitem__(self, number: int) -> torch.Tensor:
        return torch.from_numpy(self._content.copy())


def _content() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (BATCH, *SHAPE), np.uint8)


def _ours(batches: int) -> Iterator[torch.Tensor]:
    loader = Loader(_Filled(), EpochPlan([batches * BATCH], global_batch_size=BATCH, lanes=1), num_workers=1)
    return (batch["image"] for batch in loader)


def _torch(batches: int) -> Iterator[torch.Tensor]:
    return iter(DataLoader(_Copies(batches), batch_size=None, num_workers=1))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("transport", choices=["ours", "torch"])
    parser.add_argument("--batches", type=int, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(json.dumps(_measure({"ours": _ours, "torch": _torch}[arguments.transport], arguments.batches)))


def _measure(transport: Any, batches: int) -> dict[str, float]:
    content, target = _content(), np.empty((BATCH, *SHAPE), np.uint8)
    start = time.process_time()
    for _ in range(batches):
        target[:] = content
    filling = (time.process_time() - start) / batches

    stream = transport(batches + batches // 10)
    for _ in range(batches // 10):
        next(stream)
    cpu, wall = cpu_seconds(), time.perf_counter()
    for batch in stream:
        batch[0, 0, 0, 0].item()
    wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
    return {"cpu": cpu / batches - filling, "wall": wall / batches, "filling": filling}


if __name__ == "__main__":
    main()
