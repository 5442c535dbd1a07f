from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loading import BATCH, loader, plan, samples, take
from pairs import write_data_set

from mmtrain.data import Loader, Manifest, RawSample, Samples, SampleSeed, SampleSource, ShardIndex, ShardReader
from mmtrain.errors import DataError

FAULTS = {
    "flipped bit": "differ from its checksum",
    "missing shard": "a shard is missing",
    "truncated shard": "truncated",
    "undecodable picture": "a sample cannot be used",
}


def flip_a_bit(manifest: Manifest, shard: int, index: int) -> str:
    """Damages one bit in the middle of a sample; returns its key."""
    path = manifest.shard_path(shard)
    entry = ShardIndex(path)
    start, stop = entry.span(index)
    data = bytearray(path.read_bytes())
    data[(start + stop) // 2] ^= 1
    path.write_bytes(data)
    return entry.key(index)


def damaged(folder: Path, fault: str) -> tuple[Manifest, set[str]]:
    """A data set with a fault planted, and the keys of the samples that it spoils."""
    manifest = write_data_set(folder)
    shard = manifest.shard_path(1)  # 31 samples, numbers 23 to 53
    if fault == "flipped bit":
        return manifest, {flip_a_bit(manifest, 1, 4), flip_a_bit(manifest, 2, 0)}
    if fault == "missing shard":
        shard.unlink()
    elif fault == "truncated shard":
        shard.write_bytes(shard.read_bytes()[:5000])
    else:
        return manifest, {"00030"}
    return manifest, {f"{number:05d}" for number in range(23, 54)}


def undecodable(raw: RawSample, seed: SampleSeed) -> dict[str, Any]:
    if raw["__key__"] == "00030":
        raise ValueError("not a usable image")
    return {"key": raw["__key__"], "draw": float(seed.generator(1).random())}  # type: ignore[arg-type]


def skipping(manifest: Manifest, fault: str, rank: int = 0, world_size: int = 1, num_workers: int = 0) -> Loader:
    if fault == "undecodable picture":
        maker = Samples([SampleSource(ShardReader(manifest), undecodable)], seed=11, on_fault="skip")
    else:
        maker = samples(manifest, "skip")
    return Loader(maker, plan(manifest, rank, world_size), num_workers=num_workers)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize(("fault", "message"), FAULTS.items())
def test_skip_leaves_out_exactly_the_bad_samples(tmp_path: Path, fault: str, message: str, num_workers: int) -> None:
    manifest, bad = damaged(tmp_path, fault)
    source = skipping(manifest, fault, num_workers=num_workers)
    for _ in range(2):
        kept: list[str] = []
        for batch in source:
            assert len(batch["key"]) == len(batch["weight"]) == BATCH
            kept += [key for key, weight in zip(batch["key"], batch["weight"], strict=True) if weight]
        assert sorted(kept) == sorted({f"{number:05d}" for number in range(71)} - bad)
        faults = source.take_faults()
        assert len(faults) == len(bad)
        assert all(message in text for text in faults)
        if fault != "missing shard":
            assert all(any(key in text for key in bad) or "truncated" in text for text in faults)
        assert source.take_faults() == []
    source.close()


@pytest.mark.parametrize("fault", FAULTS)
def test_raise_names_the_shard_and_the_reason(tmp_path: Path, fault: str) -> None:
    manifest, _ = damaged(tmp_path, fault)
    maker = samples(manifest)
    if fault == "undecodable picture":
        maker = Samples([SampleSource(ShardReader(manifest), undecodable)], seed=11)
    with pytest.raises(DataError, match=FAULTS[fault]) as caught:
        list(Loader(maker, plan(manifest)))
    assert str(tmp_path) in str(caught.value.where)
    assert caught.value.mend


def test_what_fills_a_skipped_row_does_not_depend_on_ranks_or_workers(tmp_path: Path) -> None:
    manifest, _ = damaged(tmp_path, "flipped bit")
    alone = take(skipping(manifest, "flipped bit"), 6)
    ranks = [take(skipping(manifest, "flipped bit", rank, 2, num_workers=2), 6) for rank in range(2)]
    for step, whole in enumerate(alone):
        parts = [rank[step] for rank in ranks]
        assert torch.equal(torch.cat([part["image"] for part in parts]), whole["image"])
        assert torch.equal(torch.cat([part["weight"] for part in parts]), whole["weight"])
        assert list(itertools.chain(*(part["key"] for part in parts))) == whole["key"]


def test_a_data_set_without_a_usable_sample_is_an_error_even_so(tmp_path: Path) -> None:
    manifest = write_data_set(tmp_path)
    for shard in range(3):
        manifest.shard_path(shard).unlink()
    with pytest.raises(DataError, match="a shard is missing"):
        next(iter(skipping(manifest, "missing shard")))


def test_pictures_that_vary_in_shape_come_as_a_list(data_set: Manifest) -> None:
    def ragged(raw: RawSample, seed: SampleSeed) -> dict[str, Any]:
        number = int(raw["__key__"])
        return {"pixels": np.full((1 + number % 3, 2), number, np.int32), "number": number}

    for num_workers in (0, 3):
        maker = Samples([SampleSource(ShardReader(data_set), ragged)], seed=0)
        source = Loader(maker, plan(data_set), num_workers=num_workers)
        for batch in itertools.islice(source, 4):
            assert isinstance(batch["pixels"], list)
            for pixels, number in zip(batch["pixels"], batch["number"].tolist(), strict=True):
                assert pixels.shape == (1 + number % 3, 2) and (pixels == number).all()
        source.close()


def test_numbers_strings_and_arrays_travel_as_they_are(data_set: Manifest) -> None:
    def mixed(raw: RawSample, seed: SampleSeed) -> dict[str, Any]:
        number = int(raw["__key__"])
        return {"whole": number, "real": number / 2, "odd": number % 2 == 1, "name": raw["txt"].decode(), "none": None}

    for num_workers in (0, 1):
        maker = Samples([SampleSource(ShardReader(data_set), mixed)], seed=0)
        source = Loader(maker, plan(data_set), num_workers=num_workers)
        batch = next(iter(source))
        assert (batch["whole"].dtype, batch["real"].dtype, batch["odd"].dtype) == (
            torch.int64,
            torch.float32,
            torch.bool,
        )
        assert torch.equal(batch["real"] * 2, batch["whole"].float())
        assert batch["name"] == [f"picture {number}" for number in batch["whole"].tolist()]
        assert batch["none"] == [None] * BATCH
        source.close()


def test_a_loader_says_what_it_left_out_once(tmp_path: Path) -> None:
    manifest, _ = damaged(tmp_path, "flipped bit")
    source = loader(manifest)
    assert source.take_faults() == []
