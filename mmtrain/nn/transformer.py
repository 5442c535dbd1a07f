"""The one Transformer: it serves BERT, GPT, ViT, both towers of CLIP and every model to come.

Shape suffixes: B rows, T tokens of a row, D model width.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as checkpointed

from mmtrain.nn.attention import Attention, Layout
from mmtrain.nn.cache import KVCache, LayerCache
from mmtrain.nn.mlp import MLP, Activation
from mmtrain.nn.rope import Rotation, rotation

Norm = Literal["layer", "rms"]
NormPosition = Literal["pre", "post"]
Init = Literal["clip", "gpt2", "bert"]


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
        assert x_BTD.ndim == 3, "flat rows have no samples to drop"
        keep = torch.empty((x_BTD.shape[0], 1, 1), dtype=x_BTD.dtype, device=x_BTD.device).bernoulli_(1 - self.rate)
        return x_BTD * keep / (1 - self.rate)


class Block(nn.Module):
    """Attention and MLP, each on a residual branch.

    Pre-norm: ``x + attention(norm(x))``, then ``x + mlp(norm(x))`` (GPT-2, Llama, ViT, CLIP).
    Post-norm: ``norm(x + attention(x))``, then ``norm(x + mlp(x))`` (BERT).
    """

    def __init__(
        self,
        attention: Attention,
        mlp: MLP,
        norms: tuple[nn.Module, nn.Module],
        *,
        post: bool,
        dropout: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.norm1, norm2 = norms
        self.attention = attention
        self.norm2 = norm2
        self.mlp = mlp
        self.post = post
        self.dropout = nn.Dropout(dropout)
        self.drop_path = DropPath(drop_path)

    def forward(
        self,
        x: Tensor,
        layout: Layout | None = None,
        rotation: Rotation | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        """Maps tokens to tokens of the same shape; for the arguments see `Attention.forward`."""
        if self.post:
            x = self.norm1(x + self._branch(self.attention(x, layout, rotation, cache)))
            return self.norm2(x + self._branch(self.mlp(x)))
        x = x + self._branch(self.attention(self.norm1(x), layout, rotation, cache))
        return x + self._branch(self.mlp(self.norm2(x)))

    def _branch(self, x: Tensor) -> Tensor:
        return self.drop_path(self.dropout(x))


class Transformer(nn.Module):
    """A stack of blocks. The norm after the last block of a pre-norm stack belongs to the model's head.

    Args:
        d_model: Width of the tokens.
        num_layers: Number of blocks.
        num_heads: Query heads of each block; must divide ``d_model``.
        num_kv_heads: Key and value heads; must divide ``num_heads``. None takes ``num_heads``.
        mlp_ratio: Width of the hidden layer of the MLP over ``d_model``.
        mlp_hidden: The same as a number, in place of the ratio.
        activation: Non-linearity of the MLP.
        norm: Layer norm, or root mean square norm (arXiv:1910.07467).
        norm_position: Before each branch, or after its sum with the residual.
        norm_eps: Epsilon of the norms.
        bias: Whether linear layers and layer norms have biases.
        qk_norm: Whether queries and keys are normalised.
        rope_theta: Base of a rotary position embedding; None has none.
        causal: Whether a token sees only itself and the tokens before it.
        dropout: Dropout of both residual branches.
        attention_dropout: Dropout of attention weights; None takes ``dropout``.
        drop_path: Stochastic-depth rate of the last block; it grows linearly from 0 at the first.
        init: Deviations of the initial weights, see `init_weights`.
        checkpoint: Whether the activations of each block are computed again in the backward pass, not kept.
    """

    def __init__(
        self,
        *,
        d_model: int,
        num_layers: int,
        num_heads: int,
        num_kv_heads: int | None = None,
        mlp_ratio: float = 4.0,
        mlp_hidden: int | None = None,
        activation: Activation = "gelu",
        norm: Norm = "layer",
        norm_position: NormPosition = "pre",
        norm_eps: float = 1e-5,
        bias: bool = True,
        qk_norm: bool = False,
        rope_theta: float | None = None,
        causal: bool = False,
        dropout: float = 0.0,
        attention_dropout: float | None = None,
        drop_path: float = 0.0,
        init: Init = "clip",
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        self.d_model = d_model
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.num_kv_heads = num_kv_heads or num_heads
        self.head_dim = d_model // num_heads
        self.rope_theta = rope_theta
        self.checkpoint = checkpoint
        blocks = []
        for layer in range(num_layers):
            attention = Attention(
                d_model,
                num_heads,
                num_kv_heads=num_kv_heads,
                causal=causal,
                bias=bias,
                dropout=dropout if attention_dropout is None else attention_dropout,
                qk_norm=qk_norm,
            )
            mlp = MLP(d_model, mlp_hidden or round(d_model * mlp_ratio), activation, bias=bias)
            norms = (make_norm(norm, d_model, norm_eps, bias=bias), make_norm(norm, d_model, norm_eps, bias=bias))
            rate = drop_path * layer / max(1, num_layers - 1)
            blocks.append(Block(attention, mlp, norms, post=norm_position == "post", dropout=dropout, drop_path=rate))
        for block in blocks:
            init_weights(block, init, num_layers)
        self.blocks = nn.ModuleList(blocks)
        # Counted while they are whole: a strategy may hold them in parts.
        self.num_matmul_weights = sum(p.numel() for p in self.parameters() if p.ndim == 2)

    def forward(
        self,
        x: Tensor,
        layout: Layout | None = None,
        position: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Maps tokens to tokens of the same shape.

        Args:
            x: Tokens ``(B, T, D)``, or ``(N, D)`` with `Unpadded`.
            layout: Which tokens see each other; None is all tokens of a row.
            position: Positions of the tokens for a rotary embedding, ``(B, T)`` or ``(N,)``; None counts from 0.
            cache: Keys and values of the tokens before.
        """
        turn = None
        if self.rope_theta is not None:
            position = torch.arange(x.shape[-2], device=x.device) if position is None else position
            turn = rotation(position, self.head_dim, self.rope_theta)
        layers = cache.layers if cache is not None else [None] * self.num_layers
        recompute = self.checkpoint and self.training and torch.is_grad_enabled()
        for block, layer in zip(self.blocks, layers, strict=True):
            if recompute:
                x = checkpointed(block, x, layout, turn, use_reentrant=False)
            else:
                x = block(x, layout, turn, layer)
        return x

    def flops_per_token(self, num_tokens: float) -> float:
        """Training FLOPs of one token that sees ``num_tokens``: ``6 N_matmul + 12 L d T`` (PaLM, appendix B).

        6 = 2 (multiply, add) x 3 (forward, and twice that backward); no discount for causality.
        """
        return 6.0 * self.num_matmul_weights + 12.0 * self.num_layers * self.d_model * num_tokens


def make_norm(name: Norm, d_model: int, eps: float, *, bias: bool) -> nn.Module:
    """A norm over the last dimension."""
    return nn.LayerNorm(d_model, eps=eps, bias=bias) if name == "layer" else nn.RMSNorm(d_model, eps=eps)


def init_weights(block: Block, init: Init, num_layers: int) -> None:
    """Draws the linear weights of a block from normal distributions, and sets their biases to 0.

    ``clip``: attention ``d^-0.5``, residual outputs that by ``(2 L)^-0.5``, MLP ``(2 d)^-0.5`` (Radford et al. 2021).
    ``gpt2``: 0.02, residual outputs that by ``(2 L)^-0.5`` (Radford et al. 2019). ``bert``: 0.02 (Devlin et al. 2018).
    """
    d_model = block.attention.out.in_features
    inner, up, residual = {
        "clip": (d_model**-0.5, (2 * d_model) ** -0.5, d_model**-0.5 * (2 * num_layers) ** -0.5),
        "gpt2": (0.02, 0.02, 0.02 * (2 * num_layers) ** -0.5),
        "bert": (0.02, 0.02, 0.02),
    }[init]
    deviations = [
        (block.attention.qkv, inner),
        (block.attention.out, residual),
        (block.mlp.up, up),
        (block.mlp.down, residual),
    ]
    if block.mlp.gate is not None:
        deviations.append((block.mlp.gate, up))
    for linear, std in deviations:
        nn.init.normal_(linear.weight, std=std)
        if linear.bias is not None:
            nn.init.zeros_(linear.bias)
