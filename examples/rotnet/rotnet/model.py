"""A small convolutional network."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class ConvNet(nn.Module):
    """3x3 convolutions of stride 2, the mean over places, a linear layer.

    Norms are over groups of channels: a batch norm would have pictures depend on each other, and so on the number of
    ranks and on the size of micro-batches.

    Args:
        num_classes: Number of logits.
        channels: Output channels of each convolution; multiples of 8.
    """

    def __init__(self, *, num_classes: int, channels: Sequence[int] = (16, 32, 64)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 3
        for out in channels:
            layers += [nn.Conv2d(width, out, 3, stride=2, padding=1, bias=False), nn.GroupNorm(8, out), nn.GELU()]
            width = out
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(width, num_classes)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Maps uint8 pictures ``(B, 3, H, W)`` to logits ``(B, num_classes)``."""
        pixels = image_BCHW.to(self.head.weight.dtype) / 127.5 - 1
        return self.head(self.features(pixels).mean((2, 3)))
