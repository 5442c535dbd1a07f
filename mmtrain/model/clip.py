"""CLIP: an image tower and a text tower in one embedding space (Radford et al. 2021, arXiv:2103.00020)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmtrain.model.text import TextTransformer
from mmtrain.model.vit import ViT


class CLIP(nn.Module):
    """Two towers, two linear projections without bias, one learned temperature.

    Args:
        image: Image tower.
        text: Text tower.
        embed_dim: Width of the shared space.
        init_temperature: The paper's 0.07; ``logit_scale`` starts at ``ln(1 / init_temperature)``.
        max_logit_scale: Bound of ``exp(logit_scale)``; the paper's 100.
        mean: Mean of each colour channel, of pixels in [0, 1].
        std: Deviation of each colour channel, of pixels in [0, 1].
    """

    image_mean: Tensor
    image_std: Tensor

    def __init__(
        self,
        *,
        image: ViT,
        text: TextTransformer,
        embed_dim: int,
        init_temperature: float = 0.07,
        max_logit_scale: float = 100.0,
        mean: Sequence[float] = (0.48145466, 0.4578275, 0.40821073),
        std: Sequence[float] = (0.26862954, 0.26130258, 0.27577711),
    ) -> None:
        super().__init__()
        self.image = image
        self.text = text
        self.image_projection = nn.Linear(image.d_model, embed_dim, bias=False)
        self.text_projection = nn.Linear(text.d_model, embed_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / init_temperature)))
        self.max_logit_scale = max_logit_scale
        self.register_buffer("image_mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("image_std", torch.tensor(std).view(3, 1, 1), persistent=False)
        nn.init.normal_(self.image_projection.weight, std=image.d_model**-0.5)
        nn.init.normal_(self.text_projection.weight, std=text.d_model**-0.5)

    def encode_image(self, image_BCHW: Tensor) -> Tensor:
        """Maps uint8 images ``(B, 3, H, W)`` to unit vectors ``(B, embed_dim)`` in fp32."""
        pixels = (image_BCHW.to(self.image_mean.dtype) / 255 - self.image_mean) / self.image_std
        return F.normalize(self.image_projection(self.image(pixels)).float(), dim=-1)

    def encode_text(self, text_BT: Tensor) -> Tensor:
        """Maps token ids ``(B, T)`` to unit vectors ``(B, embed_dim)`` in fp32."""
        return F.normalize(self.text_projection(self.text(text_BT)).float(), dim=-1)

    def scale(self) -> Tensor:
        """The temperature's inverse, ``exp(logit_scale)``, a scalar."""
        return self.logit_scale.float().exp()

    @torch.no_grad()
    def clamp_logit_scale(self) -> None:
        """Keeps ``exp(logit_scale)`` in [1, max_logit_scale]; called after every optimizer step, as published."""
        self.logit_scale.clamp_(0.0, math.log(self.max_logit_scale))

    def forward(self, image_BCHW: Tensor, text_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors of images and of texts, both ``(B, embed_dim)``."""
        return self.encode_image(image_BCHW), self.encode_text(text_BT)

    def flops_per_sample(self) -> float:
        """Training FLOPs of one pair by PaLM's formula, without the contrastive logits."""
        projections = 6.0 * (self.image_projection.weight.numel() + self.text_projection.weight.numel())
        return self.image.flops_per_sample() + self.text.flops_per_sample() + projections
