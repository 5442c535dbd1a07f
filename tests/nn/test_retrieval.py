from __future__ import annotations

import pytest
import torch
from torchmetrics.functional.retrieval import retrieval_hit_rate

from mmtrain.nn.retrieval import positive_rank, recall_at, retrieval_rank


@pytest.mark.parametrize("k", [1, 5, 10])
@pytest.mark.parametrize("positives", [1, 3])
def test_recall_is_the_mean_hit_rate_of_torchmetrics(k: int, positives: int) -> None:
    generator = torch.Generator().manual_seed(k)
    query, candidate = torch.randn(200, 8, generator=generator), torch.randn(30, 8, generator=generator)
    positive = torch.zeros(200, 30, dtype=torch.bool)
    positive.scatter_(1, torch.rand(200, 30, generator=generator).argsort(dim=1)[:, :positives], True)
    rows = zip(query @ candidate.T, positive, strict=True)
    expected = torch.stack([retrieval_hit_rate(scores, right, top_k=k) for scores, right in rows]).mean()
    assert 0 < expected < 1
    for chunk in (64, 1024):
        torch.testing.assert_close(recall_at(retrieval_rank(query, candidate, positive, chunk), k), expected)


def test_rank_counts_wrong_candidates_before_the_best_right_one() -> None:
    similarity = torch.tensor([[0.9, 0.8, 0.7, 0.6], [0.9, 0.8, 0.7, 0.6]])
    positive = torch.tensor([[False, False, True, True], [True, False, False, True]])
    assert positive_rank(similarity, positive).tolist() == [2, 0]


@pytest.mark.parametrize("value", [0.5, torch.nan], ids=["ties", "nan"])
def test_a_model_that_tells_nothing_apart_finds_nothing(value: float) -> None:
    rank = positive_rank(torch.full((4, 4), value), torch.eye(4, dtype=torch.bool))
    assert rank.tolist() == [3, 3, 3, 3]
    assert recall_at(rank, 3) == 0
    assert recall_at(rank, 4) == 1


def test_right_candidates_do_not_compete() -> None:
    similarity, positive = torch.zeros(1, 3), torch.tensor([[True, True, False]])
    assert positive_rank(similarity, positive).tolist() == [1]
