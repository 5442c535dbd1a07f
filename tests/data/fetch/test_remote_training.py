"""A config's training data behind HTTP: the same batches as from the disk, each shard fetched once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from pairs import write_data_set
from web import Web, serve

from mmtrain.data import EvalTransform, TrainTransform
from mmtrain.data.image_text import ImageText
from mmtrain.data.training_set import Cache

SIZES = (23, 31, 17, 25)


class Bytes:
    """A tokenizer of bytes."""

    fingerprint = "bytes"

    def load(self) -> None:
        pass

    def __call__(self, texts: list[str]) -> np.ndarray:
        return np.stack([np.frombuffer(text.encode().ljust(24, b"\0"), np.uint8) for text in texts]).astype(np.int64)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    write_data_set(tmp_path / "served", SIZES)
    with serve(tmp_path / "served") as web:
        yield web


def image_text(train: str, cache: Path, num_workers: int = 0, max_gb: float | None = None) -> ImageText:
    return ImageText(
        root=cache,
        train=train,
        cache=Cache(str(cache / "shards"), max_gb),
        tokenizer=Bytes(),
        train_transform=TrainTransform(16, flip=0.5),
        eval_transform=EvalTransform(16),
        global_batch_size=16,
        num_workers=num_workers,
    )


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_are_those_of_the_disk_and_shards_are_fetched_once(web: Web, tmp_path: Path, num_workers: int) -> None:
    local = image_text(str(tmp_path / "served"), tmp_path / "unused")
    remote = image_text(web.url, tmp_path / "cache", num_workers)
    assert remote.fingerprints == local.fingerprints
    assert remote.steps_per_epoch() == local.steps_per_epoch() == 6
    loader, expected = remote.train_loader(0, 1), local.train_loader(0, 1)
    for _ in range(2):
        for batch, whole in zip(loader, expected, strict=True):
            assert batch["key"] == whole["key"]
            assert torch.equal(batch["image"], whole["image"])
    loader.close()
    counts = web.counts()
    assert {name: counts[name] for name in counts if name.endswith(".tar")} == {
        f"pairs-{shard:06d}.tar": 1 for shard in range(len(SIZES))
    }


def test_under_a_cap_the_epoch_still_comes_whole(web: Web, tmp_path: Path) -> None:
    largest = max(path.stat().st_size for path in (tmp_path / "served").glob("*.tar"))
    remote = image_text(web.url, tmp_path / "cache", max_gb=2.5 * largest / 1e9)
    loader = remote.train_loader(0, 1)
    keys = [key for batch in loader for key, real in zip(batch["key"], batch["weight"], strict=True) if real]
    loader.close()
    assert sorted(keys) == [f"{number:05d}" for number in range(sum(SIZES))]
