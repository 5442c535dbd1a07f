from __future__ import annotations

import pickle

import numpy as np
import pytest

from mmtrain.data.plan.share import Pieces, Share, Slots, concatenate, nearest_divisor
from mmtrain.errors import ConfigError


def share(rows: list[list[int]], first: int = 0) -> Share:
    """Packed rows, given the samples in each; every part is two tokens long."""
    row = np.repeat(np.arange(len(rows)), [len(parts) for parts in rows])
    sample = np.array([number for parts in rows for number in parts])
    weight = np.arange(first, first + len(rows)).astype(np.float32)
    return Share(sample * 0, sample * 0, sample, weight, Pieces(row, 2 * sample, 2 * sample + 2))


def described(share: Share) -> list[tuple[float, list[int]]]:
    """Each row's weight and samples, after a look at its pieces."""
    assert share.pieces is not None
    np.testing.assert_array_equal(share.pieces.start, 2 * share.sample)
    np.testing.assert_array_equal(share.pieces.stop, 2 * share.sample + 2)
    assert (np.diff(share.pieces.row) >= 0).all()
    return [(float(w), share.sample[share.pieces.row == row].tolist()) for row, w in enumerate(share.weight)]


ROWS = [[5, 3], [7], [1, 9, 2]]


def test_rows_of_a_packed_share_are_numbered_from_zero() -> None:
    assert described(share(ROWS).rows(1, 3)) == [(1, [7]), (2, [1, 9, 2])]
    assert described(share(ROWS).rows(0, 1)) == [(0, [5, 3])]


def test_concatenated_rows_follow_one_another() -> None:
    both = concatenate([share(ROWS), share([[4], [8, 6]], first=3)])
    assert len(both) == 5
    assert described(both) == [(0, [5, 3]), (1, [7]), (2, [1, 9, 2]), (3, [4]), (4, [8, 6])]


def test_moved_rows_keep_their_parts_in_order() -> None:
    assert described(share(ROWS).moved(np.array([2, 0, 1]))) == [(1, [7]), (2, [1, 9, 2]), (0, [5, 3])]


def test_moved_rows_of_samples() -> None:
    zeros = np.zeros(3, np.int64)
    moved = Share(zeros, zeros, np.array([10, 11, 12]), np.array([0, 1, 2], np.float32)).moved(np.array([2, 0, 1]))
    assert moved.sample.tolist() == [11, 12, 10] and moved.weight.tolist() == [1, 2, 0]


def test_a_share_can_be_sent_to_a_worker() -> None:
    assert described(pickle.loads(pickle.dumps(share(ROWS)))) == described(share(ROWS))


@pytest.mark.parametrize("world_size", [1, 2, 3, 6, 12])
def test_ranks_slots_are_the_batch_lane_by_lane(world_size: int) -> None:
    found = []
    for rank in range(world_size):
        slots = Slots(12, 4, rank, world_size)
        stretches = list(slots.lanes(5))
        assert sum(stop - start for _, start, stop in stretches) == len(slots) == 12 // world_size
        found += [(lane, row) for lane, start, stop in stretches for row in range(start, stop)]
    assert found == [(lane, row) for lane in range(4) for row in range(15, 18)]


def test_a_global_batch_that_does_not_divide_names_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        Slots(100, 4, 0, 8)
    assert caught.value.mend == "set data.global_batch_size=96 or 104"


def test_lanes_that_do_not_divide_name_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        Slots(100, 8, 0, 1)
    assert caught.value.mend == "set data.lanes=10"


@pytest.mark.parametrize(("number", "near", "divisor"), [(100, 8, 10), (64, 48, 32), (7, 3, 1), (12, 12, 12)])
def test_nearest_divisor(number: int, near: int, divisor: int) -> None:
    assert nearest_divisor(number, near) == divisor
