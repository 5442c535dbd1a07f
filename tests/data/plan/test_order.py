from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtrain.data.plan.order import EpochOrder, Shuffle, checked_sizes
from mmtrain.errors import ConfigError, DataError

SIZES = (*range(1, 20), 0, 0, *range(20, 38))
SHUFFLES: tuple[Shuffle, ...] = ("block", "slide", "none")

orders = st.builds(
    lambda sizes, **options: EpochOrder(np.array(sizes, np.int64), **options),
    st.lists(st.integers(0, 60), min_size=1, max_size=20),
    seed=st.integers(0, 3),
    epoch=st.integers(0, 3),
    lanes=st.integers(1, 12),
    window=st.one_of(st.integers(1, 40), st.just(10_000)),
    shuffle=st.sampled_from(SHUFFLES),
    source=st.integers(0, 1),
)


def order(
    sizes: tuple[int, ...] = SIZES, *, seed: int = 1, epoch: int = 3, window: int = 64, shuffle: Shuffle = "block"
) -> EpochOrder:
    return EpochOrder(np.array(sizes), seed=seed, epoch=epoch, lanes=4, window=window, shuffle=shuffle)


def lane(order: EpochOrder, number: int) -> np.ndarray:
    return order.lane_samples(number, 0, order.lane_length(number))


def whole(order: EpochOrder) -> np.ndarray:
    return np.concatenate([lane(order, number) for number in range(order.lanes)])


def line(order: EpochOrder, sizes: np.ndarray) -> np.ndarray:
    """The permuted shards end to end: what a lane is before its local shuffle."""
    first = np.cumsum(sizes) - sizes
    return np.concatenate([np.arange(first[shard], first[shard] + sizes[shard]) for shard in order.shards])


@settings(deadline=None)
@given(orders)
def test_an_epoch_holds_every_sample_once(order: EpochOrder) -> None:
    samples = whole(order)
    np.testing.assert_array_equal(np.sort(samples), np.arange(order.bounds[-1]))
    lengths = [order.lane_length(lane) for lane in range(order.lanes)]
    assert max(lengths) - min(lengths) <= 1


@settings(deadline=None)
@given(orders)
def test_no_sample_moves_as_far_as_a_window(order: EpochOrder) -> None:
    sizes = np.zeros(len(order.shards), np.int64)
    sizes[order.shards] = np.diff(order.starts)
    place_on_line = np.argsort(line(order, sizes))
    moved = np.abs(place_on_line[whole(order)] - np.arange(order.bounds[-1]))
    assert (moved < order.window).all()


@settings(deadline=None)
@given(orders, st.data())
def test_random_access_gives_what_walking_gives(order: EpochOrder, data: st.DataObject) -> None:
    number = data.draw(st.integers(0, order.lanes - 1))
    start = data.draw(st.integers(0, order.lane_length(number)))
    stop = data.draw(st.integers(start, order.lane_length(number)))
    jumped = order.lane_samples(number, start, stop)
    np.testing.assert_array_equal(jumped, lane(order, number)[start:stop])


@pytest.mark.parametrize("window", [2, 3, 100, 5000])
def test_a_lane_slides_the_same_in_chunks_of_any_size(window: int) -> None:
    """However small, so that many edges are met: the chunks must add up to sorting the whole lane at once."""
    lanes = []
    for size in (25, 4096, 20_000):
        sliding = EpochOrder(np.array([20_000]), seed=0, epoch=0, lanes=1, window=window, shuffle="slide")
        sliding._chunk_size = size
        lanes.append(whole(sliding))
    np.testing.assert_array_equal(lanes[0], lanes[2])
    np.testing.assert_array_equal(lanes[1], lanes[2])


def test_lanes_share_neither_the_edges_of_their_blocks_nor_a_permutation() -> None:
    blocks = [order((4000,)).chunk(lane, 640) for lane in range(4)]
    assert len({first % 64 for first, _ in blocks}) == 4
    assert len({(samples - samples.min()).tobytes() for _, samples in blocks}) == 4


@pytest.mark.parametrize("window", [64, 1000])
@pytest.mark.parametrize(("shuffle", "mean", "furthest"), [("block", 1 / 3, 1.0), ("slide", 1 / 4, 0.5)])
def test_samples_move_over_all_of_the_window(shuffle: Shuffle, mean: float, furthest: float, window: int) -> None:
    mixed = EpochOrder(np.array([20_000]), seed=0, epoch=0, lanes=1, window=window, shuffle=shuffle)
    moved = np.abs(whole(mixed) - np.arange(20_000))
    assert moved.mean() == pytest.approx(mean * window, rel=0.05)
    assert moved.max() == pytest.approx(furthest * window, rel=0.35)


@pytest.mark.parametrize("shuffle", SHUFFLES)
def test_a_window_of_one_does_not_shuffle_a_lane(shuffle: Shuffle) -> None:
    plain = order(window=1, shuffle=shuffle)
    np.testing.assert_array_equal(whole(plain), line(plain, np.array(SIZES)))


@pytest.mark.parametrize("shuffle", SHUFFLES)
def test_a_jump_into_an_epoch_works_out_only_the_chunks_it_touches(shuffle: Shuffle) -> None:
    far = EpochOrder(np.full(10_000, 10_000), seed=0, epoch=0, lanes=8, window=4096, shuffle=shuffle)
    assert far.chunks_shuffled == 0
    far.lane_samples(5, 10_000_000, 10_000_032)
    assert far.chunks_shuffled in (1, 2)


@pytest.mark.parametrize("shuffle", SHUFFLES)
def test_walking_works_out_every_chunk_once(shuffle: Shuffle) -> None:
    walked = EpochOrder(np.full(50, 1000), seed=0, epoch=0, lanes=4, window=512, shuffle=shuffle)
    for start in range(0, 12_500, 50):
        for lane in range(4):
            walked.lane_samples(lane, start, start + 50)
    assert walked.chunks_shuffled <= 4 * (12_500 // walked._chunk_size + 2)


@pytest.mark.parametrize("shuffle", ["block", "slide"])
def test_seeds_epochs_sources_and_lanes_differ(shuffle: Shuffle) -> None:
    options = {"lanes": 2, "window": 50, "shuffle": shuffle}
    one_shard = np.array([200])
    keys = [(seed, epoch, source) for seed in (1, 2) for epoch in (0, 1) for source in (0, 1, 2)]
    different = [EpochOrder(one_shard, seed=s, epoch=e, source=source, **options) for s, e, source in keys]
    lanes = {(lane(order, number) - 100 * number).tobytes() for order in different for number in (0, 1)}
    assert len(lanes) == 2 * len(keys)


@pytest.mark.parametrize("shuffle", ["block", "slide"])
def test_a_lane_reads_few_shards_at_a_time(shuffle: Shuffle) -> None:
    local = EpochOrder(np.full(100, 100), seed=0, epoch=0, lanes=4, window=500, shuffle=shuffle)
    shards = lane(local, 2) // 100
    assert max(len(set(shards[start : start + 500].tolist())) for start in range(0, len(shards), 500)) <= 17


def test_without_shuffle_the_order_is_the_manifests() -> None:
    np.testing.assert_array_equal(whole(order(shuffle="none")), np.arange(sum(SIZES)))


@pytest.mark.parametrize(
    ("shuffle", "digest"),
    [
        ("block", "d7dbdc8ef7ce887f8ffde7302a78a8af0f58f8f1a4c3a82ba86e359bc83fa789"),
        ("slide", "9db76282c91e676fab853b91b4a0f08306df6ea35ced8ecb7122e547a81dd8b4"),
    ],
)
def test_the_order_never_changes_between_versions(shuffle: Shuffle, digest: str) -> None:
    """A run that resumes under a newer version of this package, or of NumPy, must go on where it stopped."""
    samples = whole(order(tuple(range(1, 38)), shuffle=shuffle))
    assert hashlib.sha256(samples.astype("<i8").tobytes()).hexdigest() == digest


@pytest.mark.parametrize(
    ("setting", "where", "mend"),
    [
        ({"window": 0}, "data.window", "set 1 to"),
        ({"window": 2**31 + 1}, "data.window", "set 1 to"),
        ({"lanes": 0}, "data.lanes", "set 1 or more"),
        ({"shuffle": "slid"}, "data.shuffle", "slide"),
    ],
)
def test_a_setting_out_of_range_says_what_to_set(setting: dict[str, object], where: str, mend: str) -> None:
    with pytest.raises(ConfigError) as caught:
        checked_sizes([5], **{"lanes": 1, "window": 1, "shuffle": "block", **setting})  # type: ignore[arg-type]
    assert caught.value.where == where and mend in str(caught.value.mend)


def test_an_empty_data_set_is_refused() -> None:
    with pytest.raises(DataError, match="no samples"):
        checked_sizes([0, 0], lanes=1, window=1, shuffle="block")
