from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtrain.data.plan.epoch import EpochPlan
from mmtrain.data.plan.order import Shuffle
from mmtrain.data.plan.stream import Endless, StreamPlan
from mmtrain.errors import ConfigError, DataError, RunError

SIZES = np.array([13, 0, 5, 29, 3])


def rows(plan: StreamPlan, first: int, last: int) -> list[tuple[int, int]]:
    """(epoch, sample) of the rows of steps ``first`` to ``last``, counted without epochs."""
    shares = [plan.share(*divmod(step, len(plan))) for step in range(first, last)]
    return [pair for share in shares for pair in zip(share.epoch.tolist(), share.sample.tolist(), strict=True)]


@pytest.mark.parametrize("shuffle", ["block", "slide", "none"])
def test_every_epoch_holds_every_sample_once(shuffle: Shuffle) -> None:
    stream = Endless(SIZES, seed=2, lanes=4, window=8, shuffle=shuffle)
    shares = [stream.take(lane, 0, 40) for lane in range(4)]  # three epochs of 12 or 13 rows, and some
    for epoch in range(3):
        samples = np.concatenate([share.sample[share.epoch == epoch] for share in shares])
        np.testing.assert_array_equal(np.sort(samples), np.arange(50))


@settings(deadline=None)
@given(st.integers(0, 3), st.integers(0, 300), st.integers(1, 100))
def test_random_access_gives_what_walking_gives(lane: int, start: int, count: int) -> None:
    walked = Endless(SIZES, lanes=4, window=8).take(lane, 0, start + count)
    jumped = Endless(SIZES, lanes=4, window=8).take(lane, start, start + count)
    np.testing.assert_array_equal(jumped.sample, walked.sample[start:])
    np.testing.assert_array_equal(jumped.epoch, walked.epoch[start:])
    assert len(jumped) == count


def test_the_first_steps_are_those_of_epochs_with_an_edge() -> None:
    settings = {"seed": 5, "lanes": 4, "window": 8}
    stream = StreamPlan(Endless(SIZES, **settings), global_batch_size=8)
    edged = EpochPlan(SIZES, global_batch_size=8, **settings)
    for step in range(50 // 8):
        np.testing.assert_array_equal(stream.share(0, step).sample, edged.share(0, step).sample)


def test_a_batch_may_hold_many_epochs() -> None:
    share = StreamPlan(Endless([3], lanes=1), global_batch_size=10).share(0, 1)
    assert share.epoch.tolist() == [3, 3, 4, 4, 4, 5, 5, 5, 6, 6]


def test_steps_go_on_where_the_epoch_before_ended() -> None:
    plan = StreamPlan(Endless(SIZES, lanes=4, window=8), global_batch_size=8)
    found = rows(plan, 0, 4 * len(plan))
    assert len(set(found)) == len(found)
    assert {(epoch, sample) for epoch in range(3) for sample in range(50)} <= set(found)


def test_sources_of_the_same_sizes_do_not_share_an_order() -> None:
    first, second = (Endless(SIZES, lanes=4, source=source).take(0, 0, 50) for source in (0, 1))
    assert first.sample.tolist() != second.sample.tolist()
    assert second.source.tolist() == [1] * 50


@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_batches_are_the_same_for_any_world_size(world_size: int) -> None:
    stream = Endless(SIZES, lanes=4, window=8)
    whole = StreamPlan(stream, global_batch_size=24)
    ranks = [StreamPlan(stream, global_batch_size=24, rank=r, world_size=world_size) for r in range(world_size)]
    assert {len(plan) for plan in ranks} == {len(whole)} == {2}
    for step in range(9):
        assert [row for plan in ranks for row in rows(plan, step, step + 1)] == rows(whole, step, step + 1)


def test_a_changed_batch_size_goes_on_with_the_same_rows_of_each_lane() -> None:
    before, after = (StreamPlan(Endless(SIZES, lanes=4, window=8), global_batch_size=size) for size in (24, 16))
    place = before.position(*divmod(6, len(before)))
    epoch, step = after.locate(**place)
    seen = sorted(rows(before, 0, 6) + rows(after, epoch * len(after) + step, 12))
    assert seen == sorted(rows(before, 0, 8))  # 144 rows, then 3 steps of 16, are 192 rows


def test_every_place_is_found_again() -> None:
    plan = StreamPlan(Endless(SIZES, lanes=4), global_batch_size=8)
    for epoch in range(3):
        for step in range(len(plan)):
            assert plan.locate(**plan.position(epoch, step)) == (epoch, step)
    assert plan.locate(**plan.position(1, len(plan))) == (2, 0)


def test_a_place_off_the_edges_names_a_batch_size() -> None:
    plan = StreamPlan(Endless(SIZES, lanes=4), global_batch_size=16)
    with pytest.raises(RunError, match="24 rows into the data is not at the edge") as caught:
        plan.locate(0, 24)
    assert caught.value.mend == "set data.global_batch_size=12"


def test_fewer_samples_than_lanes_are_refused() -> None:
    with pytest.raises(ConfigError, match="3 samples, fewer than data.lanes = 8") as caught:
        Endless([3], lanes=8)
    assert "data.lanes=3" in str(caught.value.mend)


def test_an_empty_data_set_is_refused() -> None:
    with pytest.raises(DataError, match="no samples"):
        Endless([0])


def test_identity_names_the_order_but_not_the_batch() -> None:
    plan = StreamPlan(Endless(SIZES, lanes=4, seed=9, window=3, shuffle="slide", source=2), global_batch_size=8)
    expected = {"kind": "endless", "seed": 9, "lanes": 4, "window": 3, "shuffle": "slide", "source": 2}
    assert plan.identity == expected
    assert plan.seed == 9
