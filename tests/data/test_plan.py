from __future__ import annotations

import numpy as np
import pytest

from mmtrain.data.plan import Plan, nearest_divisor
from mmtrain.errors import ConfigError, DataError

SIZES = np.random.default_rng(0).integers(1, 50, 37)


@pytest.mark.parametrize("lanes", [1, 3, 8, 24])
@pytest.mark.parametrize("sizes", [SIZES, np.array([5]), np.array([7, 0, 20])])
def test_batches_are_the_same_for_any_world_size(lanes: int, sizes: np.ndarray) -> None:
    whole = Plan(sizes, global_batch_size=24, lanes=lanes, window=16)
    for world_size in (2, 4, 8):
        ranks = [
            Plan(sizes, global_batch_size=24, lanes=lanes, window=16, rank=rank, world_size=world_size)
            for rank in range(world_size)
        ]
        assert {len(plan) for plan in ranks} == {len(whole)}
        for step in range(len(whole)):
            shares = [plan.share(2, step) for plan in ranks]
            expected = whole.share(2, step)
            np.testing.assert_array_equal(np.concatenate([share.samples for share in shares]), expected.samples)
            np.testing.assert_array_equal(np.concatenate([share.weight for share in shares]), expected.weight)


@pytest.mark.parametrize("total", [5, 47, 48, 49, 1000])
def test_pad_gives_every_sample_weight_one_exactly_once(total: int) -> None:
    plan = Plan(np.array([total]), global_batch_size=24, tail="pad")
    shares = [plan.share(0, step) for step in range(len(plan))]
    samples = np.concatenate([share.samples for share in shares])
    weight = np.concatenate([share.weight for share in shares])
    np.testing.assert_array_equal(np.sort(samples[weight == 1]), np.arange(total))
    assert len(samples) == len(plan) * 24
    assert weight.sum() == total


def test_drop_leaves_out_less_than_a_batch() -> None:
    plan = Plan(np.array([100]), global_batch_size=24, tail="drop")
    samples = np.concatenate([plan.share(0, step).samples for step in range(len(plan))])
    assert len(samples) == len(set(samples.tolist())) == 96


def test_drop_with_nothing_left_says_what_to_set() -> None:
    with pytest.raises(ConfigError, match="less than one global batch") as caught:
        Plan(np.array([5]), global_batch_size=8, tail="drop")
    assert "data.tail=pad" in str(caught.value)


def test_a_global_batch_that_does_not_divide_names_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        Plan(SIZES, global_batch_size=100, lanes=4, world_size=8)
    assert caught.value.mend == "set data.global_batch_size=96 or 104"


def test_lanes_that_do_not_divide_name_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        Plan(SIZES, global_batch_size=100, lanes=8)
    assert caught.value.mend == "set data.lanes=10"


def test_an_empty_data_set_is_refused() -> None:
    with pytest.raises(DataError, match="no samples"):
        Plan(np.array([0, 0]), global_batch_size=8)


def test_a_late_step_costs_no_more_than_an_early_one() -> None:
    plan = Plan(np.full(1000, 10_000), global_batch_size=64, lanes=8, window=4096)
    plan.share(0, len(plan) - 2)
    assert plan.order(0).windows_sorted <= 2 * 8


@pytest.mark.parametrize(("number", "near", "divisor"), [(100, 8, 10), (64, 48, 32), (7, 3, 1), (12, 12, 12)])
def test_nearest_divisor(number: int, near: int, divisor: int) -> None:
    assert nearest_divisor(number, near) == divisor
