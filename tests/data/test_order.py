from __future__ import annotations

import hashlib

import numpy as np
import pytest

from mmtrain.data.order import EpochOrder

SIZES = [(7,), (5, 1, 1000), (3, 0, 4), tuple(range(1, 38))]


def order(sizes: tuple[int, ...], *, seed: int = 1, epoch: int = 3, lanes: int = 4, window: int = 64) -> EpochOrder:
    return EpochOrder(np.array(sizes), seed=seed, epoch=epoch, lanes=lanes, window=window)


def whole(order: EpochOrder) -> np.ndarray:
    return np.concatenate([order.lane_samples(lane, 0, order.lane_length(lane)) for lane in range(order.lanes)])


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("lanes", [1, 4, 8])
@pytest.mark.parametrize("window", [1, 64, 10_000])
def test_an_epoch_holds_every_sample_once(sizes: tuple[int, ...], lanes: int, window: int) -> None:
    samples = whole(order(sizes, lanes=lanes, window=window))
    np.testing.assert_array_equal(np.sort(samples), np.arange(sum(sizes)))


def test_random_access_gives_what_walking_gives() -> None:
    walked = order(SIZES[3])
    jumped = order(SIZES[3])
    for lane in range(4):
        line = walked.lane_samples(lane, 0, walked.lane_length(lane))
        for start in reversed(range(0, len(line), 17)):
            np.testing.assert_array_equal(
                jumped.lane_samples(lane, start, min(start + 17, len(line))), line[start : start + 17]
            )


def test_a_jump_into_an_epoch_sorts_only_the_windows_it_touches() -> None:
    far = EpochOrder(np.full(10_000, 10_000), seed=0, epoch=0, lanes=8, window=4096)
    assert far.windows_sorted == 0
    far.lane_samples(5, 10_000_000, 10_000_032)
    assert far.windows_sorted in (1, 2)


def test_walking_sorts_every_window_once() -> None:
    walked = EpochOrder(np.full(50, 200), seed=0, epoch=0, lanes=4, window=512)
    for start in range(0, 2500, 50):
        for lane in range(4):
            walked.lane_samples(lane, start, start + 50)
    assert walked.windows_sorted <= 4 * (2500 // 512 + 2)


def test_epochs_and_seeds_differ() -> None:
    orders = [order(SIZES[3], seed=seed, epoch=epoch) for seed in (1, 2) for epoch in (0, 1)]
    assert len({whole(one).tobytes() for one in orders}) == 4


def test_a_lane_reads_few_shards_at_a_time() -> None:
    local = EpochOrder(np.full(100, 100), seed=0, epoch=0, lanes=4, window=500)
    shards = local.lane_samples(2, 0, local.lane_length(2)) // 100
    assert max(len(set(shards[start : start + 500].tolist())) for start in range(0, len(shards), 500)) <= 12


def test_without_shuffle_the_order_is_the_manifests() -> None:
    plain = EpochOrder(np.array(SIZES[3]), seed=0, epoch=5, lanes=4, window=64, shuffle=False)
    np.testing.assert_array_equal(whole(plain), np.arange(sum(SIZES[3])))


def test_the_order_never_changes_between_versions() -> None:
    """A run that resumes under a newer version of this package, or of NumPy, must go on where it stopped."""
    digest = hashlib.sha256(whole(order(SIZES[3])).astype("<i8").tobytes()).hexdigest()
    assert digest == "d7dbdc8ef7ce887f8ffde7302a78a8af0f58f8f1a4c3a82ba86e359bc83fa789"
