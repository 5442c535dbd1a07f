"""A CLIP of one block a tower, and gradients that depend on the step alone."""

from __future__ import annotations

import torch

from mmtrain.model.clip import CLIP
from mmtrain.model.text import TextTransformer
from mmtrain.model.vit import ViT
from mmtrain.optim.adamw import AdamW
from mmtrain.optim.schedule import Cosine


def small_clip() -> CLIP:
    torch.manual_seed(0)
    tower = {"d_model": 16, "num_layers": 1, "num_heads": 2}
    return CLIP(
        image=ViT(image_size=8, patch_size=4, stem=[4], **tower),  # type: ignore[arg-type]
        text=TextTransformer(context_length=6, vocab_size=20, **tower),  # type: ignore[arg-type]
        embed_dim=8,
    )


def adamw(weight_decay: float = 0.2) -> AdamW:
    return AdamW(lr=1e-2, schedule=Cosine(), betas=(0.9, 0.98), eps=1e-6, weight_decay=weight_decay)


def set_gradients(model: torch.nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for parameter in model.parameters():  # laid out in memory like their parameters, as autograd does
        parameter.grad = torch.empty_like(parameter).copy_(torch.randn(parameter.shape, generator=generator))
