"""Causal text tower of CLIP (Radford et al. 2021, arXiv:2103.00020, section 2.4).

Shape suffixes: B texts, T tokens of a text with its padding, N tokens of all texts up to their ends, D model width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmtrain.errors import ConfigError
from mmtrain.nn.attention import Unpadded
from mmtrain.nn.mlp import Activation
from mmtrain.nn.transformer import Transformer


class TextTransformer(nn.Module):
    """Token and position embeddings, causal Transformer; the feature is the token at the end of the text.

    Args:
        vocab_size: Number of token ids. The end token must be the largest id of a sequence, as in CLIP's vocabulary.
        context_length: Most tokens in a text, start and end included.
        d_model: Width of the tokens and of the output feature.
        num_layers: Number of Transformer blocks.
        num_heads: Heads of each block.
        mlp_ratio: Width of the MLP's hidden layer over ``d_model``.
        activation: Non-linearity of the MLP.
        dropout: Dropout in the blocks.
        norm_eps: Epsilon of the layer norms.
        unpad: Whether the blocks work on the tokens up to the end of each text only, as one flat row: causality hides
            the others from the feature. It changes no result but which values dropout hits.
        pretrained: Where the weights of a new run come from: a run directory or a Hugging Face folder.
    """

    def __init__(
        self,
        *,
        context_length: int,
        d_model: int,
        num_layers: int,
        num_heads: int,
        vocab_size: int = 49408,
        mlp_ratio: float = 4.0,
        activation: Activation = "gelu",
        dropout: float = 0.0,
        norm_eps: float = 1e-5,
        unpad: bool = True,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        self.pretrained = pretrained
        self.vocab_size = vocab_size
        self.context_length = context_length
        self.d_model = d_model
        self.unpad = unpad
        self.token_embed = nn.Embedding(vocab_size, d_model)
        self.positions = nn.Parameter(torch.empty(context_length, d_model))
        self.transformer = Transformer(
            d_model=d_model,
            num_layers=num_layers,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            activation=activation,
            causal=True,
            dropout=dropout,
            norm_eps=norm_eps,
        )
        self.norm_final = nn.LayerNorm(d_model, eps=norm_eps)
        nn.init.normal_(self.token_embed.weight, std=0.02)
        nn.init.normal_(self.positions, std=0.01)

    def forward(self, text_BT: Tensor) -> Tensor:
        """Maps token ids ``(B, T)``, zero after the end token, T <= context_length, to features ``(B, D)``.

        Raises:
            ConfigError: Texts with more tokens than the model has positions.
        """
        num_tokens = text_BT.shape[1]
        if num_tokens > self.context_length:
            raise ConfigError(
                f"texts have {num_tokens} tokens, and the model has {self.context_length} positions",
                where="data.tokenizer.context_length, model.text.context_length",
                mend=f"set data.tokenizer.context_length={self.context_length}",
            )
        length_B = self.lengths(text_BT)
        if self.unpad:
            rows = Unpadded(length_B, num_tokens)
            x_ND = self.token_embed(rows.unpad(text_BT)) + F.embedding(rows.index_N % num_tokens, self.positions)
            end_BD = self.transformer(x_ND, rows)[length_B.cumsum(0) - 1]
        else:
            x_BTD = self.transformer(self.token_embed(text_BT) + self.positions[:num_tokens])
            end_BD = x_BTD[torch.arange(len(x_BTD), device=x_BTD.device), length_B - 1]
        return self.norm_final(end_BD)

    def lengths(self, text_BT: Tensor) -> Tensor:
        """Tokens of each text up to its end, ``(B,)``."""
        return text_BT.argmax(dim=-1) + 1

    def flops_per_sample(self, num_tokens: float | None = None) -> float:
        """Training FLOPs of a text of ``num_tokens``, None for a full one; look-ups of embeddings are not counted."""
        num_tokens = num_tokens or self.context_length
        return num_tokens * self.transformer.flops_per_token(num_tokens)
