"""Recall of cross-modal retrieval. Shape suffixes: Q queries, C candidates."""

from __future__ import annotations

import torch
from torch import Tensor


def positive_rank(similarity_QC: Tensor, positive_QC: Tensor) -> Tensor:
    """For each query, how many wrong candidates do not score below its best right one.

    A tie counts against the model, so one that maps everything to the same point finds nothing; nor does NaN.

    Args:
        similarity_QC: Score of each candidate, higher is nearer.
        positive_QC: Which candidates are right; at least one for each query.

    Returns:
        int64 ``(Q,)``; 0 where a right candidate comes first.
    """
    best_Q = similarity_QC.masked_fill(~positive_QC, -torch.inf).amax(dim=1)
    return (~(similarity_QC < best_Q[:, None]) & ~positive_QC).sum(dim=1)


def recall_at(similarity_QC: Tensor, positive_QC: Tensor, k: int) -> Tensor:
    """Recall@k as the field reports it: the share of queries with a right candidate among the first k, a scalar."""
    return (positive_rank(similarity_QC, positive_QC) < k).float().mean()
