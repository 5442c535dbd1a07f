"""Loaders of the small real data set of this folder's tests."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import mmtrain
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
    TrainTransform,
)
from mmtrain.data.decode.codec import decode
from mmtrain.data.loader.samples import OnFault

BATCH = 12  # 71 samples: five full batches and one of 11
STEPS = 6
HERE = Path(__file__).parent
TRANSFORM = TrainTransform(16, scale=(0.3, 1.0), flip=0.5, rotation=15, hue=0.1, erasing=0.3)


def encode(raw: RawSample, seed: SampleSeed) -> Mapping[str, Any]:
    image = TRANSFORM(decode(raw["jpg"]), seed.generator(Stream.IMAGE))
    return {"image": image, "label": json.loads(raw["json"])["label"], "key": raw["__key__"]}


def plan(manifest: Manifest, rank: int = 0, world_size: int = 1, **options: Any) -> EpochPlan:
    settings = {"seed": 11, "lanes": 4, "window": 16, **options}
    return EpochPlan(manifest.sizes, global_batch_size=BATCH, rank=rank, world_size=world_size, **settings)


def samples(manifest: Manifest, on_fault: OnFault = "raise", seed: int = 11) -> Samples:
    return Samples([SampleSource(ShardReader(manifest), encode)], seed=seed, on_fault=on_fault)


def loader(manifest: Manifest, rank: int = 0, world_size: int = 1, num_workers: int = 0, **options: Any) -> Loader:
    return Loader(samples(manifest), plan(manifest, rank, world_size, **options), num_workers=num_workers)


def python(*arguments: object) -> str:
    """Runs Python on this file's folder and this checkout; returns what it printed."""
    search = os.pathsep.join([str(HERE), str(Path(mmtrain.__file__).parents[1])])
    environment = {**os.environ, "PYTHONPATH": search}
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def take(source: Loader, count: int) -> list[dict[str, Any]]:
    batches: list[dict[str, Any]] = []
    while len(batches) < count:
        for batch in source:
            batches.append(batch)
            if len(batches) == count:
                break
    return batches


def run(
    manifest: Manifest, world_size: int, num_workers: int, count: int, state: dict[str, Any] | None = None
) -> tuple[list[list[dict[str, Any]]], dict[str, Any]]:
    """The next ``count`` steps of every rank, and the state after them."""
    ranks, states = [], []
    for rank in range(world_size):
        one = loader(manifest, rank, world_size, num_workers)
        if state is not None:
            one.load_state_dict(state)
        ranks.append(take(one, count))
        states.append(one.state_dict())
        one.close()
    assert all(other == states[0] for other in states)
    return ranks, states[0]


def global_batches(ranks: list[list[dict[str, Any]]]) -> list[str]:
    """Hashes of the global batches, put together in the order of ranks."""
    merged = []
    for shares in zip(*ranks, strict=True):
        image = torch.cat([share["image"] for share in shares]).numpy().tobytes()
        rest = [torch.cat([share[name] for share in shares]).tolist() for name in ("label", "weight")]
        keys = [key for share in shares for key in share["key"]]
        merged.append(hashlib.sha256(image + json.dumps([rest, keys]).encode()).hexdigest())
    return merged
