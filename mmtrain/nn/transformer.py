"""The one Transformer: it serves the image tower, the text tower and every model to come.

Shape suffixes: B batch, T tokens, D model width, H heads, K head width.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Activation = Literal["gelu", "gelu_tanh", "quick_gelu"]


class QuickGELU(nn.Module):
    """``x * sigmoid(1.702 x)``, the approximation of GELU that OpenAI's CLIP was trained with."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


def activation(name: Activation) -> nn.Module:
    """The activation module of this name."""
    modules: dict[Activation, nn.Module] = {
        "gelu": nn.GELU(),
        "gelu_tanh": nn.GELU(approximate="tanh"),
        "quick_gelu": QuickGELU(),
    }
    return modules[name]


class Attention(nn.Module):
    """Multi-head self-attention through ``scaled_dot_product_attention``.

    Args:
        d_model: Width of the tokens.
        num_heads: Number of heads; must divide ``d_model``.
        causal: Whether token t sees only tokens 0..t.
        dropout: Probability of dropping an attention weight in training.
    """

    def __init__(self, d_model: int, num_heads: int, *, causal: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        if d_model % num_heads:
            raise ValueError(f"d_model={d_model} must be divisible by num_heads={num_heads}")
        self.num_heads = num_heads
        self.causal = causal
        self.dropout = dropout
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)

    def forward(self, x_BTD: Tensor) -> Tensor:
        B, T, D = x_BTD.shape
        qkv = self.qkv(x_BTD).view(B, T, 3, self.num_heads, D // self.num_heads)
        q_BHTK, k_BHTK, v_BHTK = qkv.permute(2, 0, 3, 1, 4)
        y_BHTK = F.scaled_dot_product_attention(
            q_BHTK, k_BHTK, v_BHTK, is_causal=self.causal, dropout_p=self.dropout if self.training else 0.0
        )
        return self.out(y_BHTK.transpose(1, 2).reshape(B, T, D))


class DropPath(nn.Module):
    """Stochastic depth: drops the residual branch of whole samples (Huang et al. 2016, arXiv:1603.09382).

    Args:
        rate: Probability of dropping the branch in training; kept branches are scaled by ``1 / (1 - rate)``.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x_BTD: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x_BTD
        keep = torch.empty((x_BTD.shape[0], 1, 1), dtype=x_BTD.dtype, device=x_BTD.device).bernoulli_(1 - self.rate)
        return x_BTD * keep / (1 - self.rate)


class MLP(nn.Module):
    """Two linear layers with an activation in between.

    Args:
        d_model: Width of the tokens.
        hidden: Width between the layers.
        activation_name: The non-linearity.
    """

    def __init__(self, d_model: int, hidden: int, activation_name: Activation) -> None:
        super().__init__()
        self.up = nn.Linear(d_model, hidden)
        self.activation = activation(activation_name)
        self.down = nn.Linear(hidden, d_model)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.down(self.activation(self.up(x_BTD)))


class Block(nn.Module):
    """Pre-norm block: ``x + attention(norm(x))``, then ``x + mlp(norm(x))`` (GPT-2, ViT, CLIP)."""

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        *,
        mlp_ratio: float,
        activation_name: Activation,
        causal: bool,
        dropout: float,
        drop_path: float,
        norm_eps: float,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(d_model, eps=norm_eps)
        self.attention = Attention(d_model, num_heads, causal=causal, dropout=dropout)
        self.norm2 = nn.LayerNorm(d_model, eps=norm_eps)
        self.mlp = MLP(d_model, round(d_model * mlp_ratio), activation_name)
        self.dropout = nn.Dropout(dropout)
        self.drop_path = DropPath(drop_path)

    def init_weights(self, num_layers: int) -> None:
        """Deviations as CLIP's: attention ``d^-0.5``, residual outputs that by ``(2 L)^-0.5``, MLP ``(2 d)^-0.5``."""
        d_model = self.attention.out.in_features
        residual_std = d_model**-0.5 * (2 * num_layers) ** -0.5
        nn.init.normal_(self.attention.qkv.weight, std=d_model**-0.5)
        nn.init.normal_(self.attention.out.weight, std=residual_std)
        nn.init.normal_(self.mlp.up.weight, std=(2 * d_model) ** -0.5)
        nn.init.normal_(self.mlp.down.weight, std=residual_std)
        for linear in (self.attention.qkv, self.attention.out, self.mlp.up, self.mlp.down):
            nn.init.zeros_(linear.bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        x_BTD = x_BTD + self.drop_path(self.dropout(self.attention(self.norm1(x_BTD))))
        return x_BTD + self.drop_path(self.dropout(self.mlp(self.norm2(x_BTD))))


class Transformer(nn.Module):
    """A stack of pre-norm blocks, without the last norm, which belongs to the model's head.

    Args:
        d_model: Width of the tokens.
        num_layers: Number of blocks.
        num_heads: Heads of each block; must divide ``d_model``.
        mlp_ratio: Width of the hidden layer of the MLP over ``d_model``.
        activation: Non-linearity of the MLP.
        causal: Whether token t sees only tokens 0..t.
        dropout: Dropout of attention weights and of both residual branches.
        drop_path: Stochastic-depth rate of the last block; it grows linearly from 0 at the first.
        norm_eps: Epsilon of the layer norms.
    """

    def __init__(
        self,
        *,
        d_model: int,
        num_layers: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        activation: Activation = "gelu",
        causal: bool = False,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.d_model = d_model
        self.num_layers = num_layers
        blocks = [
            Block(
                d_model,
                num_heads,
                mlp_ratio=mlp_ratio,
                activation_name=activation,
                causal=causal,
                dropout=dropout,
                drop_path=drop_path * layer / max(1, num_layers - 1),
                norm_eps=norm_eps,
            )
            for layer in range(num_layers)
        ]
        for block in blocks:
            block.init_weights(num_layers)
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Maps tokens ``(B, T, D)`` to tokens ``(B, T, D)``."""
        for block in self.blocks:
            x_BTD = block(x_BTD)
        return x_BTD

    def flops_per_token(self, num_tokens: int) -> float:
        """Training FLOPs of one token in a sequence of ``num_tokens``: ``6 N_matmul + 12 L d T`` (PaLM, appendix B).

        6 = 2 (multiply, add) x 3 (forward, and twice that backward); no discount for causality.
        """
        matmul = sum(p.numel() for p in self.parameters() if p.ndim == 2)
        return 6.0 * matmul + 12.0 * self.num_layers * self.d_model * num_tokens
