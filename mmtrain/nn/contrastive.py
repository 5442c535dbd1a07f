"""The contrastive loss of CLIP over the global batch, exact on any number of ranks.

Shape suffixes: b samples of this rank, B samples of all ranks, D width of the shared space.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmtrain import distributed


def clip_loss(image_bD: Tensor, text_bD: Tensor, scale: Tensor, weight_b: Tensor) -> Tensor:
    """Symmetric cross-entropy between the images and texts of the global batch (CLIP, figure 3).

    Each rank takes the rows of its own samples against the columns of all ranks' samples, so memory is O(b B) rather
    than O(B^2). Features travel through a differentiable all-gather. The result is scaled such that its *mean over
    ranks*, which data-parallel training takes of the gradients, is the loss of the global batch:

        1 / (2 N) * sum over samples of (CE of its image among texts + CE of its text among images),

    N the number of samples of weight 1. Samples of weight 0 are neither rows nor columns. Always in fp32.

    Args:
        image_bD: Unit vectors of this rank's images, ``(b, D)``; b is the same on all ranks.
        text_bD: Unit vectors of this rank's texts, ``(b, D)``.
        scale: Inverse temperature, a scalar.
        weight_b: 1 for samples, 0 for filler, ``(b,)``.

    Returns:
        A scalar.
    """
    with torch.autocast(image_bD.device.type, enabled=False):
        image_bD, text_bD, scale = image_bD.float(), text_bD.float(), scale.float()
        image_BD, text_BD = distributed.all_gather(torch.stack([image_bD, text_bD], dim=1)).unbind(dim=1)
        filler_B = distributed.all_gather(weight_b) == 0
        positive_b = scale * (image_bD * text_bD).sum(dim=-1)
        loss_b = -2 * positive_b
        for row_bD, column_BD in ((image_bD, text_BD), (text_bD, image_BD)):
            logits_bB = (scale * row_bD @ column_BD.T).masked_fill(filler_B, -torch.inf)
            loss_b = loss_b + logits_bB.logsumexp(dim=-1)
        num_samples = (~filler_B).sum()
        return torch.where(weight_b == 0, 0.0, loss_b).sum() * distributed.world_size() / (2 * num_samples)
