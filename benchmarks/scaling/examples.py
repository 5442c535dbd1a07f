"""Models that the figure is drawn of, on H100s: no step of theirs was measured, so that of one GPU is assumed."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from mmtrain.model.clip import CLIP
from mmtrain.model.gpt import GPT
from mmtrain.model.text import TextTransformer
from mmtrain.model.vit import ViT
from mmtrain.nn.transformer import Block
from scaling.analytic import Contrastive, Workload

PEAK_FLOPS = 989e12
"""Dense bf16 of an H100 SXM (NVIDIA H100 data sheet)."""
ASSUMED_MFU = 0.4
PRODUCT_FLOPS = 300e12
"""Assumed of fp32 products of features with TF32, whose dense peak is 495e12."""
BF16 = 2


class Example(NamedTuple):
    """A model and its batch.

    Attributes:
        title: For the figure.
        work: The step of one GPU, in bf16-mixed precision.
    """

    title: str
    work: Workload


def examples(overlap: float) -> list[Example]:
    """A small and a large decoder, and CLIP, with a share of the communication that can be hidden."""
    with torch.device("meta"):
        small = GPT(vocab_size=50304, context_length=1024, d_model=768, num_layers=12, num_heads=12)
        large = GPT(
            vocab_size=32000,
            context_length=4096,
            d_model=4096,
            num_layers=32,
            num_heads=32,
            mlp_hidden=11008,
            activation="swiglu",
            norm="rms",
            bias=False,
            rope_theta=1e4,
            tied=False,
        )
        clip = CLIP(
            image=ViT(image_size=224, patch_size=16, d_model=768, num_layers=12, num_heads=12),
            text=TextTransformer(vocab_size=49408, context_length=77, d_model=512, num_layers=12, num_heads=8),
            embed_dim=512,
        )
    pairs = Contrastive(rows=1024, width=512, flops_per_s=PRODUCT_FLOPS)
    return [
        Example("GPT-2, 32 x 1,024 tokens a GPU", _work(small, 32 * small.flops_per_sample(1024), overlap)),
        Example("Llama 7B, 2 x 4,096 tokens a GPU", _work(large, 2 * large.flops_per_sample(4096), overlap)),
        Example("CLIP ViT-B/16, 1,024 pairs a GPU", _work(clip, 1024 * clip.flops_per_sample(77), overlap, pairs)),
    ]


def _work(model: nn.Module, flops: float, overlap: float, contrastive: Contrastive | None = None) -> Workload:
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    params = sum(parameter.numel() for parameter in model.parameters())
    in_blocks = sum(parameter.numel() for block in blocks for parameter in block.parameters())
    return Workload(
        step_s=flops / (ASSUMED_MFU * PEAK_FLOPS),
        params=params,
        outside=params - in_blocks,
        blocks=len(blocks),
        bytes_per_param=BF16,
        overlap=overlap,
        contrastive=contrastive,
    )
