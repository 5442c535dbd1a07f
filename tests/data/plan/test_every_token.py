"""Evaluation of a language model: each token but the first is scored once, on whatever ranks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtrain.data.plan.every_token import EveryToken
from mmtrain.data.plan.share import Share
from mmtrain.errors import DataError


def tokens_of(share: Share, starts: np.ndarray) -> list[list[int]]:
    """The tokens of each row, numbered along the line of all documents."""
    assert share.pieces is not None
    rows: list[list[int]] = [[] for _ in range(len(share))]
    for row, sample, start, stop in zip(share.pieces.row, share.sample, *share.pieces[1:], strict=True):
        assert start < stop
        rows[row] += range(starts[sample] + start, starts[sample] + stop)
    return rows


@settings(max_examples=150, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 20), min_size=1, max_size=30),
    sequence_length=st.integers(1, 12),
    per_rank=st.integers(1, 4),
    world_size=st.integers(1, 3),
)
def test_every_token_but_the_first_is_scored_once(
    lengths: list[int], sequence_length: int, per_rank: int, world_size: int
) -> None:
    total = sum(lengths)
    starts = np.cumsum([0, *lengths])
    settings = {"sequence_length": sequence_length, "global_batch_size": per_rank * world_size}
    if total <= sequence_length:
        with pytest.raises(DataError, match=f"has {total} tokens"):
            EveryToken(lengths, **settings)
        return
    plans = [EveryToken(lengths, **settings, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert len({len(plan) for plan in plans}) == 1
    scored: list[int] = []
    for step in range(len(plans[0])):
        for plan in plans:
            share = plan.share(0, step)
            assert len(share) == per_rank
            for row, weight in zip(tokens_of(share, starts), share.weight, strict=True):
                assert row == list(range(row[0], row[-1] + 1)) and 2 <= len(row) <= sequence_length + 1
                scored += row[1:] if weight else []
    assert scored == list(range(1, total))
    assert plans[0].tokens == total - 1


def test_a_row_begins_with_the_last_token_of_the_row_before() -> None:
    plan = EveryToken([5, 0, 4], sequence_length=3, global_batch_size=4)
    rows = tokens_of(plan.share(0, 0), np.array([0, 5, 5]))
    assert rows == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8], [0, 1, 2, 3]]
    assert plan.share(0, 0).weight.tolist() == [1, 1, 1, 0]


def test_a_set_shorter_than_a_row_is_told() -> None:
    with pytest.raises(DataError, match="has 8 tokens, less than one row of 9") as refused:
        EveryToken([3, 5], sequence_length=8, global_batch_size=1)
    assert "data.sequence_length" in str(refused.value.mend)
