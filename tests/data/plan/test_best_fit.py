from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtrain.data.plan.best_fit import best_fit


@st.composite
def full_rows(draw: st.DrawFn) -> tuple[np.ndarray, int, int]:
    """Items that fill some rows: the rows' tokens cut at random places, and at those that make them short enough."""
    rows, capacity = draw(st.integers(1, 12)), draw(st.integers(1, 30))
    cuts = draw(st.sets(st.integers(1, rows * capacity)))
    edges = sorted(cuts | {0, *range(capacity, rows * capacity + 1, capacity)})
    order = draw(st.permutations(range(len(edges) - 1)))
    return np.diff(edges)[order], rows, capacity


@settings(deadline=None)
@given(full_rows())
def test_rows_are_filled_with_every_token_once(problem: tuple[np.ndarray, int, int]) -> None:
    lengths, rows, capacity = problem
    item, (row, start, stop) = best_fit(lengths, rows=rows, capacity=capacity)
    assert (stop > start).all()
    np.testing.assert_array_equal(np.bincount(row, stop - start, minlength=rows), np.full(rows, capacity))
    found = sorted((i, t) for i, a, z in zip(item, start, stop, strict=True) for t in range(a, z))
    assert found == [(i, t) for i, length in enumerate(lengths) for t in range(length)]
    assert sorted(zip(row, item, strict=True)) == list(zip(row, item, strict=True)), "rows, or items in a row, descend"


def test_what_fits_is_not_cut() -> None:
    item, (row, start, stop) = best_fit(np.array([3, 7, 5, 5, 8, 2]), rows=3, capacity=10)
    assert start.tolist() == [0] * 6 and (stop - start).tolist() == [8, 2, 3, 7, 5, 5]
    assert (item.tolist(), row.tolist()) == ([4, 5, 0, 1, 2, 3], [0, 0, 1, 1, 2, 2])


def test_what_does_not_fit_is_cut_into_the_fewest_gaps_left() -> None:
    item, (_, start, stop) = best_fit(np.array([9, 9, 6, 6, 5, 5]), rows=4, capacity=10)  # leaves 1, 1, 4 and 4
    pieces = [sorted((stop - start)[item == number].tolist()) for number in range(6)]
    assert pieces == [[9], [9], [6], [6], [1, 4], [1, 4]]


def test_items_that_do_not_fill_the_rows_are_a_mistake() -> None:
    with pytest.raises(AssertionError):
        best_fit(np.array([3]), rows=1, capacity=4)
