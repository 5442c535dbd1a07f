"""Best-fit-decreasing packing that fills its rows to the last token."""

from __future__ import annotations

from bisect import bisect_left, insort

import numpy as np

from mmtrain.data.plan.order import IntArray
from mmtrain.data.plan.share import Pieces


def best_fit(lengths: IntArray, *, rows: int, capacity: int) -> tuple[IntArray, Pieces]:
    """Packs items into rows of equal capacity, cutting as few items as the heuristic finds.

    The longest item comes first, and each goes where it leaves the smallest gap. What fits nowhere in one piece is cut
    over the gaps that the others left, the largest first.

    Args:
        lengths: Length of each item, 1 to ``capacity``, shape ``(items,)``; they add up to ``rows * capacity``.
        rows: Number of rows.
        capacity: Length of a row.

    Returns:
        The item of each piece, shape ``(pieces,)``, and where the pieces go; in a row, items ascend.
    """
    assert lengths.sum() == rows * capacity, "the items do not fill the rows"
    gaps = [capacity * rows + row for row in range(rows)]  # ascending; gap and row in one number
    placed: list[tuple[int, int, int, int]] = []

    def place(item: int, start: int, stop: int, index: int) -> int:
        """Puts as much of an item into a gap as goes in; returns where its rest starts."""
        gap, row = divmod(gaps.pop(index), rows)
        end = min(stop, start + gap)
        placed.append((row, item, start, end))
        if left := gap - (end - start):
            insort(gaps, left * rows + row)
        return end

    too_long = []
    longest_first = np.argsort(-lengths, kind="stable")
    for item, length in zip(longest_first.tolist(), lengths[longest_first].tolist(), strict=True):
        index = bisect_left(gaps, length * rows)
        if index < len(gaps):
            place(item, 0, length, index)
        else:
            too_long.append((item, length))
    for item, length in too_long:
        start = 0
        while start < length:
            index = bisect_left(gaps, (length - start) * rows)
            start = place(item, start, length, min(index, len(gaps) - 1))
    row, item_of_piece, first, last = np.array(sorted(placed), np.int64).T
    return item_of_piece, Pieces(row, first, last)
