"""The sigmoid loss of SigLIP over the global batch, exact on any number of ranks, without a matrix of all pairs.

Shape suffixes: b samples of this rank, B samples of all ranks, t rows of a tile, D width of the shared space.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmtrain import distributed
from mmtrain.nn.linear import linear


def siglip_loss(
    image_bD: Tensor, text_bD: Tensor, scale: Tensor, bias: Tensor, weight_b: Tensor, *, tile: int = 256
) -> Tensor:
    """Each pair of the global batch is right or wrong by itself (Zhai et al. 2023, arXiv:2303.15343, section 3.2).

        1 / N * sum over images i and texts j of -log sigmoid(z_ij (scale image_i . text_j + bias)),

    z_ij = 1 where i = j and -1 elsewhere, N the number of samples of weight 1. Samples of weight 0 are in no pair. The
    result is scaled such that its *mean over ranks*, which data-parallel training takes of the gradients, is the loss
    of the global batch. At least in fp32.

    A rank takes its own images against all texts, ``tile`` rows at a time. A pair needs no other to know its slope, so
    the forward pass makes the gradient, too, and keeps no logit: memory is O(B (tile + D)). The paper's ring of text
    chunks (section 3.3) saves the B D of the gathered texts, which are small beside the towers, for W steps of waiting.

    Args:
        image_bD: Unit vectors of this rank's images, ``(b, D)``; b is the same on all ranks.
        text_bD: Unit vectors of this rank's texts, ``(b, D)``.
        scale: Inverse temperature, a scalar.
        bias: Added to every logit, a scalar: most pairs are wrong.
        weight_b: 1 for samples, 0 for filler, ``(b,)``.
        tile: Images that are compared with all texts at once; changes memory only.

    Returns:
        A scalar. The gradients of ``scale`` and ``bias`` are exact in the mean over ranks.
    """
    with torch.autocast(image_bD.device.type, enabled=False):
        dtype = torch.promote_types(image_bD.dtype, torch.float32)
        text_BD = distributed.all_gather(text_bD.to(dtype))
        filler_B = distributed.all_gather(weight_b) == 0
        total: Tensor = _Sigmoid.apply(  # type: ignore[no-untyped-call]
            image_bD.to(dtype), text_BD, scale.to(dtype), bias.to(dtype), filler_B, tile
        )
        return total * distributed.data_parallel_size() / (~filler_B).sum()


class _Sigmoid(torch.autograd.Function):
    """Sum over this rank's images and all texts."""

    @staticmethod
    def forward(
        ctx: Any, image_bD: Tensor, text_BD: Tensor, scale: Tensor, bias: Tensor, filler_B: Tensor, tile: int
    ) -> Tensor:
        rank_first = distributed.data_parallel_rank() * len(image_bD)
        grad_image_bD, grad_text_BD = torch.empty_like(image_bD), torch.zeros_like(text_BD)
        loss, grad_bias = image_bD.new_zeros(()), image_bD.new_zeros(())
        for start in range(0, len(image_bD), tile):
            row_tD, first = image_bD[start : start + tile], rank_first + start
            filler_t = filler_B[first : first + len(row_tD)]
            wrong_tB = linear(scale * row_tD, text_BD).add_(bias)  # how much each pair is believed in, wrongly
            wrong_tB.diagonal(first).neg_()
            wrong_tB.masked_fill_(filler_B, -torch.inf).masked_fill_(filler_t[:, None], -torch.inf)
            loss += F.softplus(wrong_tB).sum()
            slope_tB = wrong_tB.sigmoid_()  # d loss / d logit
            slope_tB.diagonal(first).neg_()
            grad_bias += slope_tB.sum()
            grad_image_bD[start : start + tile] = linear(slope_tB, text_BD.T)
            grad_text_BD += linear(slope_tB.T, row_tD.T)
        grad_scale = (grad_image_bD * image_bD).sum()
        ctx.save_for_backward(grad_image_bD.mul_(scale), grad_text_BD.mul_(scale), grad_scale, grad_bias)
        return loss

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        image, text, scale, bias = ctx.saved_tensors
        return grad * image, grad * text, grad * scale, grad * bias, None, None
