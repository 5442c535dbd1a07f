"""Image classification: a Vision Transformer and a linear layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmtrain.model.vit import ViT
from mmtrain.nn.linear import Linear


class ViTClassifier(nn.Module):
    """Pixels -> features -> logits.

    Args:
        backbone: Gives one feature an image.
        num_classes: Number of classes.
        dropout: Dropout of the feature.
        mean: Mean of each colour channel, of pixels in [0, 1].
        std: Deviation of each colour channel, of pixels in [0, 1].
        pretrained: Where the weights of a new run come from, head and all: a run directory or a Hugging Face folder.

    Attributes:
        inputs: The fields of a batch that `forward` takes.
    """

    inputs = ("image",)
    image_mean: Tensor
    image_std: Tensor

    def __init__(
        self,
        *,
        backbone: ViT,
        num_classes: int,
        dropout: float = 0.0,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.num_classes = num_classes
        self.pretrained = pretrained
        self.dropout = nn.Dropout(dropout)
        self.head = Linear(backbone.d_model, num_classes)
        self.register_buffer("image_mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("image_std", torch.tensor(std).view(3, 1, 1), persistent=False)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Maps uint8 images ``(B, 3, H, W)`` to logits ``(B, num_classes)``."""
        pixels = (image_BCHW.to(self.image_mean.dtype) / 255 - self.image_mean) / self.image_std
        return self.head(self.dropout(self.backbone(pixels)))

    def flops_per_sample(self) -> float:
        """Training FLOPs of one image by PaLM's formula."""
        return self.backbone.flops_per_sample() + 6.0 * self.head.weight.numel()
