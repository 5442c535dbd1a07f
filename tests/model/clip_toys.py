"""A CLIP of 32 dimensions: 16-pixel pictures, texts of 12 tokens, of which 99 ends a text."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmtrain.model.clip import CLIP
from mmtrain.model.text import TextTransformer
from mmtrain.model.vit import ViT

VOCAB, END = 100, 99


def toy_clip(
    *, seed: int = 0, image: dict[str, Any] | None = None, model: dict[str, Any] | None = None, **both: Any
) -> CLIP:
    """``both`` goes to both towers, ``image`` to the image tower, ``model`` to what joins them."""
    torch.manual_seed(seed)
    towers = {"d_model": 32, "num_layers": 2, "num_heads": 4, "mlp_ratio": 2.0, **both}
    return CLIP(
        image=ViT(**{"image_size": 16, "patch_size": 8, **towers, **(image or {})}),
        text=TextTransformer(**{"context_length": 12, "vocab_size": VOCAB, **towers}),
        embed_dim=16,
        **(model or {}),
    )


def toy_images(n: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (n, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def toy_texts(n: int, seed: int = 0) -> Tensor:
    """Texts of 3 to 12 tokens, 0 after the end token."""
    generator = torch.Generator().manual_seed(seed)
    texts = torch.randint(1, END, (n, 12), generator=generator)
    ends = torch.randint(2, 12, (n, 1), generator=generator)
    texts.scatter_(1, ends, END)
    return texts.masked_fill(torch.arange(12) > ends, 0)
