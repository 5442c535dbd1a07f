"""The part of a block that works on each token by itself, and its non-linearities."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmtrain.nn.linear import Linear

Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "relu_squared", "swiglu"]


class QuickGELU(nn.Module):
    """``x * sigmoid(1.702 x)``, the approximation of GELU that OpenAI's CLIP was trained with."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class ReLUSquared(nn.Module):
    """``max(0, x)^2`` (So et al. 2021, arXiv:2109.08668)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x).square()


def activation(name: Activation) -> nn.Module:
    """The non-linearity of this name; SwiGLU's is that of its gate."""
    modules: dict[Activation, nn.Module] = {
        "gelu": nn.GELU(),
        "gelu_tanh": nn.GELU(approximate="tanh"),
        "quick_gelu": QuickGELU(),
        "relu": nn.ReLU(),
        "relu_squared": ReLUSquared(),
        "swiglu": nn.SiLU(),
    }
    return modules[name]


class MLP(nn.Module):
    """Two linear layers with a non-linearity in between; with ``swiglu``, a third that gates (arXiv:2002.05202).

    Args:
        d_model: Width of the tokens.
        hidden: Width between the layers.
        activation_name: The non-linearity.
        bias: Whether the layers have biases.
    """

    def __init__(self, d_model: int, hidden: int, activation_name: Activation, *, bias: bool = True) -> None:
        super().__init__()
        self.up = Linear(d_model, hidden, bias=bias)
        self.activation = activation(activation_name)
        self.down = Linear(hidden, d_model, bias=bias)
        self.gate = Linear(d_model, hidden, bias=bias) if activation_name == "swiglu" else None

    def forward(self, x: Tensor) -> Tensor:
        """Maps tokens ``(..., d_model)`` to the same shape."""
        if self.gate is None:
            return self.down(self.activation(self.up(x)))
        return self.down(self.activation(self.gate(x)) * self.up(x))
