from __future__ import annotations

import numpy as np
import pytest

from mmtrain.data.plan.epoch import EpochPlan
from mmtrain.data.plan.order import Shuffle
from mmtrain.errors import ConfigError, DataError, RunError

SIZES = np.random.default_rng(0).integers(1, 50, 37)


@pytest.mark.parametrize("lanes", [1, 3, 8, 24])
@pytest.mark.parametrize("sizes", [SIZES, [5], [7, 0, 20]])
@pytest.mark.parametrize("shuffle", ["block", "slide", "none"])
def test_batches_are_the_same_for_any_world_size(lanes: int, sizes: list[int], shuffle: Shuffle) -> None:
    whole = EpochPlan(sizes, global_batch_size=24, lanes=lanes, window=16, shuffle=shuffle)
    for world_size in (2, 4, 8):
        ranks = [
            EpochPlan(
                sizes, global_batch_size=24, lanes=lanes, window=16, shuffle=shuffle, rank=rank, world_size=world_size
            )
            for rank in range(world_size)
        ]
        assert {len(plan) for plan in ranks} == {len(whole)}
        for step in range(len(whole)):
            shares = [plan.share(2, step) for plan in ranks]
            expected = whole.share(2, step)
            np.testing.assert_array_equal(np.concatenate([share.sample for share in shares]), expected.sample)
            np.testing.assert_array_equal(np.concatenate([share.weight for share in shares]), expected.weight)


@pytest.mark.parametrize("total", [5, 47, 48, 49, 1000])
def test_pad_gives_every_sample_weight_one_exactly_once(total: int) -> None:
    plan = EpochPlan([total], global_batch_size=24, tail="pad")
    shares = [plan.share(0, step) for step in range(len(plan))]
    samples = np.concatenate([share.sample for share in shares])
    weight = np.concatenate([share.weight for share in shares])
    np.testing.assert_array_equal(np.sort(samples[weight == 1]), np.arange(total))
    assert len(samples) == len(plan) * 24
    assert weight.sum() == total


def test_drop_leaves_out_less_than_a_batch() -> None:
    plan = EpochPlan([100], global_batch_size=24, tail="drop")
    samples = np.concatenate([plan.share(0, step).sample for step in range(len(plan))])
    assert len(samples) == len(set(samples.tolist())) == 96


def test_rows_say_their_epoch_and_source() -> None:
    share = EpochPlan([100], global_batch_size=24).share(7, 4)
    assert share.epoch.tolist() == [7] * 24
    assert share.source.tolist() == [0] * 24
    assert share.pieces is None


def test_drop_with_nothing_left_says_what_to_set() -> None:
    with pytest.raises(ConfigError, match="less than one global batch") as caught:
        EpochPlan([5], global_batch_size=8, tail="drop")
    assert "data.tail=pad" in str(caught.value)


def test_an_unknown_tail_is_refused() -> None:
    with pytest.raises(ConfigError, match="no tail is called 'padd'") as caught:
        EpochPlan([5], global_batch_size=8, tail="padd")  # type: ignore[arg-type]
    assert "'pad'" in str(caught.value.mend)


def test_an_empty_data_set_is_refused() -> None:
    with pytest.raises(DataError, match="no samples"):
        EpochPlan([0, 0], global_batch_size=8)


def test_a_late_step_costs_no_more_than_an_early_one() -> None:
    plan = EpochPlan(np.full(1000, 10_000), global_batch_size=64, lanes=8, window=4096)
    plan.share(0, len(plan) - 2)
    assert plan.order(0).chunks_shuffled <= 2 * 8


@pytest.mark.parametrize("tail", ["pad", "drop"])
def test_every_place_is_found_again(tail: str) -> None:
    plan = EpochPlan([100], global_batch_size=24, tail=tail)  # type: ignore[arg-type]
    for step in range(len(plan)):
        assert plan.locate(**plan.position(3, step)) == (3, step)
    assert plan.position(3, len(plan)) == {"epoch": 4, "samples": 0}


@pytest.mark.parametrize(("size", "step"), [(8, 6), (16, 3), (48, 1)])
def test_a_place_holds_for_other_batch_sizes_that_have_an_edge_there(size: int, step: int) -> None:
    place = EpochPlan([1000], global_batch_size=24).position(0, 2)
    plan = EpochPlan([1000], global_batch_size=size)
    assert plan.locate(**place) == (0, step)
    rest = np.concatenate([plan.share(0, at).sample for at in range(step, len(plan))])
    before = EpochPlan([1000], global_batch_size=24)
    seen = np.concatenate([before.share(0, at).sample for at in range(2)])
    assert set(rest.tolist()) | set(seen.tolist()) == set(range(1000))
    assert not set(rest.tolist()) & set(seen.tolist()) - set(rest[1000 - 48 :].tolist())


def test_a_place_where_a_dropped_tail_begins_is_the_next_epochs_start() -> None:
    place = EpochPlan([100], global_batch_size=8, tail="drop").position(2, 11)
    assert EpochPlan([100], global_batch_size=44, lanes=4, tail="drop").locate(**place) == (3, 0)


def test_a_place_off_the_edges_names_the_nearest_batch_size_that_lanes_and_ranks_divide() -> None:
    plan = EpochPlan([1000], global_batch_size=56, lanes=8, world_size=2)
    with pytest.raises(RunError, match="240 samples into an epoch is not at the edge") as caught:
        plan.locate(0, 240)
    assert caught.value.where == "data.global_batch_size"
    assert caught.value.mend == "set data.global_batch_size=48"


def test_a_place_that_no_batch_size_reaches_says_to_go_back() -> None:
    plan = EpochPlan([1000], global_batch_size=56, lanes=8, world_size=7)
    with pytest.raises(RunError) as caught:
        plan.locate(0, 240)
    assert "number of ranks" in str(caught.value.mend)


def test_identity_is_of_plain_values_and_leaves_the_tail_out() -> None:
    identity = EpochPlan([1000], global_batch_size=8, seed=3, lanes=4, window=9, shuffle="slide", tail="drop").identity
    assert identity == {"kind": "epochs", "seed": 3, "lanes": 4, "window": 9, "shuffle": "slide"}
