"""mmtrain.data: planned order, verified reads by position, batches through shared memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from loaders.pipeline import BATCH, Pair, encode, size
from mmtrain.data import (
    EpochPlan,
    Loader,
    Manifest,
    RawSample,
    Samples,
    SampleSeed,
    SampleSource,
    ShardReader,
    Stream,
    open_shards,
)

SEED = 1


def prepare(tar: Path, out: Path) -> None:
    """The index lies beside the shards."""


def raw(tar: Path, prepared: Path) -> Iterator[int]:
    return read(ShardReader(open_shards(tar)))


def batches(tar: Path, prepared: Path, workers: int) -> Iterator[dict[str, Any]]:
    return iter(open_loader(open_shards(tar), workers))


def read(reader: ShardReader) -> Iterator[int]:
    """The bytes of each picture, in the order of an epoch."""
    plan = plan_epoch(reader.manifest)
    for step in range(len(plan)):
        for sample in plan.share(0, step).sample.tolist():
            yield size(reader.read(sample)["jpg"])


def open_loader(manifest: Manifest, workers: int) -> Loader:
    """The whole pipeline over a data set."""
    samples = Samples([SampleSource(ShardReader(manifest), encode_raw)], seed=SEED)
    return Loader(samples, plan_epoch(manifest), num_workers=workers)


def plan_epoch(manifest: Manifest) -> EpochPlan:
    return EpochPlan(manifest.sizes, global_batch_size=BATCH, seed=SEED, lanes=1, window=4096)


def encode_raw(sample: RawSample, seed: SampleSeed) -> dict[str, Any]:
    return encode(Pair(sample["__key__"], sample["jpg"], sample["txt"]), seed.generator(Stream.IMAGE))
