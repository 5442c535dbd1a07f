from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from loading import BATCH, STEPS, global_batches, loader, plan, run, samples, take
from pairs import write_data_set

from mmtrain.data import EvalLoader, Manifest
from mmtrain.data.shards.build import build_manifest
from mmtrain.data.shards.index import write_index
from mmtrain.errors import DataError, RunError


@pytest.fixture(scope="module")
def reference(data_set: Manifest) -> list[str]:
    """Two epochs and a bit, by one process without workers."""
    return global_batches(run(data_set, 1, 0, 2 * STEPS + 2)[0])


def test_an_epoch_holds_every_sample_once_and_epochs_differ(data_set: Manifest) -> None:
    source = loader(data_set)
    epochs = []
    for _ in range(2):
        batches = list(source)
        assert len(batches) == len(source) == STEPS
        real = [key for batch in batches for key, weight in zip(batch["key"], batch["weight"], strict=True) if weight]
        assert sorted(real) == [f"{number:05d}" for number in range(71)]
        epochs.append(real)
    assert epochs[0] != epochs[1]


def test_batches_hold_tensors_of_the_agreed_types(data_set: Manifest) -> None:
    batch = next(iter(loader(data_set, world_size=2)))
    assert (batch["image"].shape, batch["image"].dtype) == ((6, 3, 16, 16), torch.uint8)
    assert (batch["label"].shape, batch["label"].dtype) == ((6,), torch.int64)
    assert (batch["weight"].shape, batch["weight"].dtype) == ((6,), torch.float32)
    assert isinstance(batch["key"], list)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_state_counts_batches_handed_out_not_prepared(data_set: Manifest, num_workers: int) -> None:
    source = loader(data_set, num_workers=num_workers)
    assert (source.state_dict()["epoch"], source.state_dict()["samples"]) == (0, 0)
    for step, _ in enumerate(source, 1):
        state = source.state_dict()
        expected = (0, step * BATCH) if step < STEPS else (1, 0)
        assert (state["epoch"], state["samples"]) == expected
    iter(source)  # opening an iterator hands nothing out
    assert (source.state_dict()["epoch"], source.state_dict()["samples"]) == (1, 0)


def test_an_epoch_that_was_broken_off_goes_on_where_it_stopped(data_set: Manifest, reference: list[str]) -> None:
    source = loader(data_set, num_workers=1)
    seen = [batch for count in (1, 3, STEPS - 4, 1) for batch in take(source, count)]
    assert global_batches([seen]) == reference[: STEPS + 1]


def test_a_loaded_state_replaces_what_workers_had_prepared(data_set: Manifest, reference: list[str]) -> None:
    source = loader(data_set, num_workers=2)
    take(source, 2)
    state = source.state_dict()
    take(source, 5)
    source.load_state_dict(state)
    assert global_batches([take(source, 3)]) == reference[2:5]
    assert len(source) == STEPS


def test_what_changed_since_a_checkpoint_is_named(data_set: Manifest, tmp_path: Path) -> None:
    state = loader(data_set).state_dict()
    with pytest.raises(RunError, match="seed was 11 and is 12; lanes was 4 and is 2"):
        loader(data_set, seed=12, lanes=2).load_state_dict(state)
    with pytest.raises(RunError, match="window was 16 and is 32"):
        loader(data_set, window=32).load_state_dict(state)
    with pytest.raises(RunError, match=f"fingerprint was {data_set.fingerprint} and is"):
        loader(write_data_set(tmp_path, (23, 31, 18))).load_state_dict(state)


def test_a_position_inside_a_batch_names_the_nearest_valid_batch(data_set: Manifest) -> None:
    state = {**loader(data_set).state_dict(), "samples": 20}
    with pytest.raises(RunError, match="20 samples") as caught:
        loader(data_set).load_state_dict(state)
    assert caught.value.mend == "set data.global_batch_size=4"  # a multiple of the lanes


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_bad_sample_is_named_and_may_be_tried_again(tmp_path: Path, num_workers: int) -> None:
    manifest = write_data_set(tmp_path)
    shard = manifest.shard_path(0)
    whole = shard.read_bytes()
    picture_start = whole.index(b"\xff\xd8\xff")
    shard.write_bytes(whole[: picture_start + 2] + bytes(100) + whole[picture_start + 102 :])
    write_index(shard)  # so that the bytes are as the index says, and the picture cannot be decoded
    manifest = build_manifest(sorted(tmp_path.glob("*.tar")), manifest.path)
    source = loader(manifest, num_workers=num_workers)
    with pytest.raises(DataError, match="a sample cannot be used") as caught:
        for _ in source:
            pass
    assert caught.value.where == f"{shard}, key 00000"
    before = source.state_dict()
    with pytest.raises(DataError, match="a sample cannot be used"):
        next(iter(source))
    assert source.state_dict() == before


def test_the_programs_own_random_numbers_are_left_alone(data_set: Manifest) -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    expected = (torch.rand(3).tolist(), np.random.rand())
    torch.manual_seed(0)
    np.random.seed(0)
    take(loader(data_set, num_workers=1), 2)
    take(loader(data_set), 2)
    assert (torch.rand(3).tolist(), np.random.rand()) == expected


def test_every_evaluation_pass_starts_at_the_first_sample(data_set: Manifest) -> None:
    for rank in range(2):
        source = EvalLoader(samples(data_set), plan(data_set, rank, 2, lanes=1, shuffle="none"), num_workers=rank)
        next(iter(source))
        for _ in range(2):
            batches = list(source)
            assert len(batches) == len(source) == STEPS
            keys = [key for batch in batches for key in batch["key"]]
            assert keys[:6] == [f"{number:05d}" for number in range(6 * rank, 6 * rank + 6)]
