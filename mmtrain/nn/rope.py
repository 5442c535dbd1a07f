"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864), in the layout of Llama's weights.

Shape suffixes: T tokens, H heads, K head width; leading dimensions are free.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Rotation(NamedTuple):
    """Cosine and sine of each token's angles, ``(..., T, 1, K)`` in fp32."""

    cos: Tensor
    sin: Tensor


def rotation(position_T: Tensor, head_dim: int, theta: float) -> Rotation:
    """The rotation of tokens at these positions: pair j turns by ``position theta^(-2j / K)``.

    Args:
        position_T: Positions, whole numbers, ``(..., T)``.
        head_dim: K, even.
        theta: Base of the wavelengths: 10,000 as published, 500,000 in Llama 3.
    """
    pair = torch.arange(0, head_dim, 2, device=position_T.device, dtype=torch.float32)
    angle = position_T.float()[..., None] * theta ** -(pair / head_dim)
    angle = torch.cat([angle, angle], dim=-1)[..., None, :]
    return Rotation(angle.cos(), angle.sin())


def rotate(x_THK: Tensor, by: Rotation) -> Tensor:
    """Turns queries or keys ``(..., T, H, K)``; element j forms a pair with element ``j + K/2``."""
    first, second = x_THK.chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    return (x_THK * by.cos + turned * by.sin).to(x_THK.dtype)
