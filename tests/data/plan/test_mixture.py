from __future__ import annotations

import hashlib
import math
from collections import Counter
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtrain.data.plan.mixture import Mixture
from mmtrain.data.plan.packing import Packing
from mmtrain.data.plan.share import Share
from mmtrain.data.plan.stream import Endless, StreamPlan
from mmtrain.errors import ConfigError

SIZES = ([40, 60], [17], [300, 5, 0, 45])
WEIGHTS = [0.7, 0.1, 0.2]


def endless(lanes: int = 4) -> list[Endless]:
    return [Endless(sizes, lanes=lanes, window=16, source=source) for source, sizes in enumerate(SIZES)]


def mixture(weights: list[float] = WEIGHTS, block: int = 64) -> Mixture:
    return Mixture(endless(), weights, seed=3, block=block)


def rows(share: Share) -> list[tuple[int, int, int]]:
    return list(zip(share.source.tolist(), share.epoch.tolist(), share.sample.tolist(), strict=True))


@pytest.mark.parametrize("lane", range(4))
def test_each_source_goes_through_its_own_stream_in_order(lane: int) -> None:
    mixed = mixture().take(lane, 0, 5000)
    for source, stream in enumerate(endless()):
        own = [row for row in rows(mixed) if row[0] == source]
        assert own == rows(stream.take(lane, 0, len(own)))


def test_each_sources_epochs_are_complete() -> None:
    taken = [row for lane in range(4) for row in rows(mixture().take(lane, 0, 1000))]
    counted = Counter(taken)
    assert set(counted.values()) == {1}
    for source, epochs in ((0, 20), (1, 19), (2, 2)):  # 700 of lanes of 25, 100 of lanes of 5 or 4, 200 of 87 or 88
        for epoch in range(epochs):
            samples = [sample for of, at, sample in counted if (of, at) == (source, epoch)]
            assert sorted(samples) == list(range(sum(SIZES[source])))


def test_blocks_hold_the_weights_to_a_row_and_are_shuffled() -> None:
    source = mixture().take(1, 0, 64 * 50).source.reshape(50, 64)
    counts = np.stack([(source == number).sum(1) for number in range(3)], axis=1)
    assert np.abs(counts - 64 * np.array(WEIGHTS)).max() <= 1
    assert (np.abs(counts.cumsum(0) - np.arange(1, 51)[:, None] * 64 * np.array(WEIGHTS)) < 1).all()
    assert len({block.tobytes() for block in source}) == 50
    assert (np.diff(source, axis=1) != 0).mean() > 0.3


@pytest.mark.parametrize("weights", [[0.7, 0.1, 0.2], [1, 1, 1], [3, 0.001, 2.5], [1e-2, 1e-3, 50]])
def test_quotas_are_exact_at_a_trillion_rows(weights: list[float]) -> None:
    mixed = mixture(weights, block=1024)
    blocks = 10**12 // mixed.block + 7
    exact = [Fraction(str(weight)) for weight in weights]
    edges = [Fraction(0), exact[0], exact[0] + exact[1], sum(exact)]
    floors = [math.floor(blocks * mixed.block * edge / sum(exact)) for edge in edges]
    assert mixed.quotas(blocks) == [high - low for low, high in pairwise(floors)]
    row = blocks * mixed.block + 5
    given = mixed.quotas(blocks)
    for lane in (0, 3):
        taken = mixed.take(lane, row - 5, row - 5 + mixed.block)
        after = [count + int((taken.source == source).sum()) for source, count in enumerate(given)]
        assert after == mixed.quotas(blocks + 1)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 10_000), min_size=2, max_size=6), st.integers(0, 10**6))
def test_no_source_ever_gives_back_a_row(weights: list[int], block: int) -> None:
    """However light it is: rounding must not need -1 of it in a block."""
    mixed = Mixture([Endless([10], lanes=1)] * len(weights), weights, block=8)
    counts = np.subtract(mixed.quotas(block + 1), mixed.quotas(block))
    assert counts.min() >= 0 and counts.sum() == mixed.block


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 3), st.integers(0, 1000), st.integers(1, 200))
def test_random_access_gives_what_walking_gives(lane: int, start: int, count: int) -> None:
    assert rows(mixture().take(lane, start, start + count)) == rows(mixture().take(lane, 0, start + count))[start:]


def test_random_access_far_away_goes_on_without_an_edge() -> None:
    far = 10**12
    at_once = rows(mixture().take(2, far, far + 300))
    assert at_once == rows(mixture().take(2, far, far + 111)) + rows(mixture().take(2, far + 111, far + 300))


def test_lanes_and_seeds_differ() -> None:
    sources = [mixture().take(lane, 0, 256).source.tobytes() for lane in range(4)]
    other = Mixture(endless(), WEIGHTS, seed=4, block=64).take(0, 0, 256).source.tobytes()
    assert len({*sources, other}) == 5


def test_the_order_never_changes_between_versions() -> None:
    digest = hashlib.sha256(np.array(rows(mixture().take(1, 0, 1000)), "<i8").tobytes()).hexdigest()
    assert digest == "60d1026466b37f871f4377a41d4bf63ca9689124b7df966100d7f856b0164fef"


@pytest.mark.parametrize("world_size", [2, 4])
def test_batches_are_the_same_for_any_world_size(world_size: int) -> None:
    whole = StreamPlan(mixture(), global_batch_size=16)
    ranks = [StreamPlan(mixture(), global_batch_size=16, rank=r, world_size=world_size) for r in range(world_size)]
    assert len(whole) == sum(map(sum, SIZES)) // 16
    for step in (0, 3, 77):
        assert [row for plan in ranks for row in rows(plan.share(4, step))] == rows(whole.share(4, step))


def test_packed_sources_are_mixed_row_by_row() -> None:
    lengths = np.array([3, 11, 8, 2, 30, 10])
    packed = [
        Packing(Endless([6], lanes=2, source=source), [64], lambda _: lengths, row_length=16, rows=source + 1)
        for source in range(2)
    ]
    mixed = Mixture(packed, [3, 1], block=8)
    share = mixed.take(1, 0, 24)
    assert share.pieces is not None
    given = [0, 0]
    for row in range(24):
        one = share.rows(row, row + 1)
        assert one.pieces is not None and (one.pieces.stop - one.pieces.start).sum() == 16
        source = int(one.source[0])
        given[source] += 1
        own = packed[source].take(1, given[source] - 1, given[source])
        assert rows(one) == rows(own)
    assert given == [18, 6]
    assert (mixed.row_length, mixed.rows_per_epoch) == (16, 8)


@pytest.mark.parametrize("weight", [0, -1, math.nan, math.inf])
def test_a_weight_that_is_no_share_is_refused(weight: float) -> None:
    with pytest.raises(ConfigError, match="source 1 has the weight") as caught:
        Mixture(endless(), [1, weight, 1])
    assert "leave the source out" in str(caught.value.mend)


def test_a_weight_too_small_to_plan_is_refused() -> None:
    with pytest.raises(ConfigError, match="source 2 gives 1e-07 of the rows"):
        Mixture(endless(), [1, 1, 2e-7])


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_sources_are_refused(count: int) -> None:
    with pytest.raises(ConfigError, match=f"a mixture of {count} sources"):
        Mixture(endless()[:count], [1] * count)


def test_packed_and_plain_sources_do_not_mix() -> None:
    plain = Endless([6], lanes=2)
    packed = Packing(plain, [6], lambda _: np.ones(6, np.uint32), row_length=2)
    with pytest.raises(ConfigError, match="rows of different kinds"):
        Mixture([plain, packed], [1, 1])


def test_identity_is_of_plain_values() -> None:
    identity = mixture().identity
    assert identity["weights"] == ["7/10", "1/10", "1/5"]
    assert identity["sources"][2] == dict(endless()[2].identity)
    assert (identity["kind"], identity["seed"], identity["block"]) == ("mixture", 3, 64)
