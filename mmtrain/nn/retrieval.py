"""Recall of cross-modal retrieval. Shape suffixes: Q queries, C candidates, D width of the shared space."""

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


def retrieval_rank(query_QD: Tensor, candidate_CD: Tensor, positive_QC: Tensor, chunk: int = 1024) -> Tensor:
    """`positive_rank` by cosine, of ``chunk`` queries at a time.

    Args:
        query_QD: Unit vectors.
        candidate_CD: Unit vectors.
        positive_QC: Which candidates are right; at least one for each query.
        chunk: Queries that are compared with all candidates at once; bounds memory.

    Returns:
        int64 ``(Q,)``. Recall@k as the field reports it is the share below k: a query is answered where any of its
        right candidates is among the first k (Karpathy and Fei-Fei 2015, arXiv:1412.2306, section 4.1).
    """
    chunks = zip(query_QD.split(chunk), positive_QC.split(chunk), strict=True)
    return torch.cat([positive_rank(query @ candidate_CD.T, positive) for query, positive in chunks])


def recall_at(rank_Q: Tensor, k: int) -> Tensor:
    """The share of queries with a right candidate among the first k, a scalar."""
    return (rank_Q < k).float().mean()
