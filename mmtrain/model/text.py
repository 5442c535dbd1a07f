"""Causal text tower of CLIP (Radford et al. 2021, arXiv:2103.00020, section 2.4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmtrain.errors import ConfigError
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
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        self.pretrained = pretrained
        self.vocab_size = vocab_size
        self.context_length = context_length
        self.d_model = d_model
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
        """Maps token ids ``(B, T)``, zero after the end token, T <= context_length, to features ``(B, d_model)``.

        Raises:
            ConfigError: Texts with more tokens than the model has positions.
        """
        if text_BT.shape[1] > self.context_length:
            raise ConfigError(
                f"texts have {text_BT.shape[1]} tokens, and the model has {self.context_length} positions",
                where="data.tokenizer.context_length, model.text.context_length",
                mend=f"set data.tokenizer.context_length={self.context_length}",
            )
        x_BTD = self.token_embed(text_BT) + self.positions[: text_BT.shape[1]]
        x_BTD = self.transformer(x_BTD)
        end_B = text_BT.argmax(dim=-1)
        return self.norm_final(x_BTD[torch.arange(x_BTD.shape[0], device=x_BTD.device), end_B])

    def flops_per_sample(self) -> float:
        """Training FLOPs of one text of full length; look-ups of embeddings are not counted."""
        return self.context_length * self.transformer.flops_per_token(self.context_length)
