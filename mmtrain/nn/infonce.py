"""InfoNCE over the global batch (CLIP's loss), exact on any number of ranks, without a matrix of all pairs.

Shape suffixes: b samples of this rank, B samples of all ranks, t rows of a tile, D width of the shared space.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmtrain import distributed
from mmtrain.nn.linear import linear


def infonce_loss(image_bD: Tensor, text_bD: Tensor, scale: Tensor, weight_b: Tensor, *, tile: int = 256) -> Tensor:
    """Symmetric cross-entropy between the images and texts of the global batch (Radford et al. 2021, figure 3).

    The result is scaled such that its *mean over ranks*, which data-parallel training takes of the gradients, is the
    loss of the global batch:

        1 / (2 N) * sum over samples of (CE of its image among texts + CE of its text among images),

    N the number of samples of weight 1. Samples of weight 0 are neither rows nor columns. At least in fp32.

    A rank takes its own images against all texts, ``tile`` rows at a time, and no logit outlives its tile: the backward
    pass makes each tile again. Memory is O(B (tile + D)). Texts find their normaliser over images by a reduction of B
    numbers over ranks. The other way, own texts against all images as well, needs none, and costs twice the products
    and twice the features gathered.

    Args:
        image_bD: Unit vectors of this rank's images, ``(b, D)``; b is the same on all ranks.
        text_bD: Unit vectors of this rank's texts, ``(b, D)``.
        scale: Inverse temperature, a scalar.
        weight_b: 1 for samples, 0 for filler, ``(b,)``.
        tile: Images that are compared with all texts at once; changes memory only.

    Returns:
        A scalar. All ranks must differentiate it with the same factor, as those of a data-parallel step do; the
        gradient of ``scale`` is exact in the mean over ranks.
    """
    with torch.autocast(image_bD.device.type, enabled=False):
        dtype = torch.promote_types(image_bD.dtype, torch.float32)
        text_BD = distributed.all_gather(text_bD.to(dtype))
        filler_B = distributed.all_gather(weight_b) == 0
        total: Tensor = _InfoNCE.apply(  # type: ignore[no-untyped-call]
            image_bD.to(dtype), text_BD, scale.to(dtype), filler_B, tile
        )
        return total * distributed.data_parallel_size() / (2 * (~filler_B).sum())


class _InfoNCE(torch.autograd.Function):
    """Sum over this rank's samples of both cross-entropies."""

    @staticmethod
    def forward(ctx: Any, image_bD: Tensor, text_BD: Tensor, scale: Tensor, filler_B: Tensor, tile: int) -> Tensor:
        first = distributed.data_parallel_rank() * len(image_bD)
        row_lse_b, positive_b = image_bD.new_empty(len(image_bD)), image_bD.new_empty(len(image_bD))
        column_lse_B = image_bD.new_full((len(text_BD),), -torch.inf)
        for start in range(0, len(image_bD), tile):
            rows = slice(start, start + tile)
            logits_tB = _logits(image_bD[rows], text_BD, scale, filler_B, first + start)
            positive_b[rows] = logits_tB.diagonal(first + start)
            row_lse_b[rows] = logits_tB.logsumexp(dim=1)
            column_lse_B = torch.logaddexp(column_lse_B, logits_tB.logsumexp(dim=0))
        column_lse_B = _logsumexp_over_ranks(column_lse_B)
        own = slice(first, first + len(image_bD))
        # exp(logit - inf) is 0: filler gets no gradient.
        row_lse_b.masked_fill_(filler_B[own], torch.inf)
        column_lse_B.masked_fill_(filler_B, torch.inf)
        ctx.save_for_backward(image_bD, text_BD, scale, filler_B, row_lse_b, column_lse_B)
        ctx.tile = tile
        return torch.where(filler_B[own], 0.0, row_lse_b + column_lse_B[own] - 2 * positive_b).sum()

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        image_bD, text_BD, scale, filler_B, row_lse_b, column_lse_B = ctx.saved_tensors
        first = distributed.data_parallel_rank() * len(image_bD)
        pair_b = 2.0 * ~filler_B[first : first + len(image_bD)]
        grad_image_bD, grad_text_BD = torch.empty_like(image_bD), torch.zeros_like(text_BD)
        with torch.autocast(image_bD.device.type, enabled=False):
            for start in range(0, len(image_bD), ctx.tile):
                rows = slice(start, start + ctx.tile)
                logits_tB = _logits(image_bD[rows], text_BD, scale, filler_B, first + start)
                slope_tB = (logits_tB - row_lse_b[rows, None]).exp_()  # d loss / d logit: softmax of rows,
                slope_tB += logits_tB.sub_(column_lse_B).exp_()  # and of columns,
                slope_tB.diagonal(first + start).sub_(pair_b[rows])  # less the one right pair, twice
                grad_image_bD[rows] = linear(slope_tB, text_BD.T)
                grad_text_BD += linear(slope_tB.T, image_bD[rows].T)
            grad_scale = grad * (grad_image_bD * image_bD).sum()
            return grad_image_bD.mul_(grad * scale), grad_text_BD.mul_(grad * scale), grad_scale, None, None


def _logits(row_tD: Tensor, text_BD: Tensor, scale: Tensor, filler_B: Tensor, first: int) -> Tensor:
    """Logits of rows ``first``, ``first + 1``, ... of the global batch against all its columns; -inf for filler."""
    logits_tB = linear(scale * row_tD, text_BD)
    filler_t = filler_B[first : first + len(row_tD)]
    return logits_tB.masked_fill_(filler_B, -torch.inf).masked_fill_(filler_t[:, None], -torch.inf)


def _logsumexp_over_ranks(lse_B: Tensor) -> Tensor:
    """The log of the sum over ranks of ``exp(lse_B)``; NaN where all are -inf."""
    if distributed.data_parallel_size() == 1:
        return lse_B
    largest_B, group = distributed.all_reduce_max(lse_B), distributed.data_parallel_group()
    return distributed.all_reduce_sum((lse_B - largest_B).exp_(), group).log_() + largest_B
