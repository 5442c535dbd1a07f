"""megatron-energon: the same tar files with an index of its own, cut into slices of 100 samples."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from megatron.energon import (
    CaptioningSample,
    DefaultTaskEncoder,
    WorkerConfig,
    get_loader,
    get_train_dataset,
    stateless,
)

from loaders.pipeline import BATCH, WINDOW, Pair, collate, encode, size


def prepare(tar: Path, out: Path) -> None:
    for shard in sorted(tar.glob("*.tar")):
        os.link(shard, out / shard.name)
    kind = ["--sample-type", "CaptioningSample", "--field-map", '{"image": "jpg", "caption": "txt"}']
    command = [Path(sys.executable).with_name("energon"), "prepare", out, "--non-interactive", "--split-ratio", "1,0,0"]
    subprocess.run([*map(str, command), "--no-progress", "--num-workers", "2", *kind], check=True)


def raw(tar: Path, prepared: Path) -> Iterator[int]:
    return itertools.chain.from_iterable(_open(prepared, 0, _Sizes()))


def batches(tar: Path, prepared: Path, workers: int) -> Iterator[dict[str, Any]]:
    return _open(prepared, workers, _Encoded())


def _open(prepared: Path, workers: int, task: DefaultTaskEncoder) -> Iterator[Any]:
    data = get_train_dataset(
        str(prepared),
        worker_config=WorkerConfig(rank=0, world_size=1, num_workers=workers),
        batch_size=BATCH,
        shuffle_buffer_size=WINDOW,
        max_samples_per_sequence=100,
        task_encoder=task,
        repeat=False,
    )
    return iter(get_loader(data))


class _Sizes(DefaultTaskEncoder):
    decoder = None

    @stateless
    def encode_sample(self, sample: CaptioningSample) -> CaptioningSample:
        return sample

    def batch(self, samples: list[CaptioningSample]) -> Any:
        return [size(sample.image) for sample in samples]


class _Encoded(_Sizes):
    _rng = np.random.default_rng(0)

    def batch(self, samples: list[CaptioningSample]) -> Any:
        pairs = (Pair(sample.__key__, sample.image, sample.caption) for sample in samples)
        return collate([encode(pair, self._rng) for pair in pairs])
