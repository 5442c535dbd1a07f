"""BERT's encoder (Devlin et al. 2018, arXiv:1810.04805).

Shape suffixes: B rows, T tokens of a row, N real tokens of all rows, D model width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmtrain.errors import ConfigError
from mmtrain.nn.attention import Documents, Unpadded
from mmtrain.nn.linear import Linear
from mmtrain.nn.mlp import Activation
from mmtrain.nn.transformer import Transformer

INIT_STD = 0.02


class Bert(nn.Module):
    """Token, position and segment embeddings, a bidirectional post-norm Transformer, and an optional pooler.

    Args:
        vocab_size: Rows of the token embedding; a multiple of 64 is faster on a GPU than the tokenizer's own number.
        context_length: Positions, the most tokens of a row.
        d_model: Width of the tokens.
        num_layers: Number of Transformer blocks.
        num_heads: Heads of each block.
        mlp_ratio: Width of the MLP's hidden layer over ``d_model``.
        activation: Non-linearity of the MLP.
        dropout: Dropout of the embeddings and of both residual branches.
        attention_dropout: Dropout of attention weights; None takes ``dropout``.
        norm_eps: Epsilon of the layer norms.
        num_segments: Kinds of tokens that are told apart, 2 for pairs of sentences.
        pooler: Whether there is a layer that makes one feature of a row's first token.
        unpad: Whether the blocks work on real tokens only, as one flat row. It changes no result but which values
            dropout hits.
        checkpoint: Whether the activations of each block are computed again in the backward pass, not kept.
        pretrained: Where the weights of a new run come from: a run directory, a Hugging Face folder or ``minilm``.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        context_length: int,
        d_model: int,
        num_layers: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        activation: Activation = "gelu",
        dropout: float = 0.1,
        attention_dropout: float | None = None,
        norm_eps: float = 1e-12,
        num_segments: int = 2,
        pooler: bool = True,
        unpad: bool = True,
        checkpoint: bool = False,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.context_length = context_length
        self.d_model = d_model
        self.activation: Activation = activation
        self.norm_eps = norm_eps
        self.unpad = unpad
        self.pretrained = pretrained
        self.token_embed = nn.Embedding(vocab_size, d_model)
        self.positions = nn.Parameter(torch.empty(context_length, d_model))
        self.segment_embed = nn.Embedding(num_segments, d_model)
        self.norm_embed = nn.LayerNorm(d_model, eps=norm_eps)
        self.dropout = nn.Dropout(dropout)
        self.transformer = Transformer(
            d_model=d_model,
            num_layers=num_layers,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            activation=activation,
            norm_position="post",
            norm_eps=norm_eps,
            dropout=dropout,
            attention_dropout=attention_dropout,
            init="bert",
            checkpoint=checkpoint,
        )
        self.pooler = bert_linear(d_model, d_model) if pooler else None
        for weight in (self.token_embed.weight, self.positions, self.segment_embed.weight):
            nn.init.normal_(weight, std=INIT_STD)

    def forward(self, tokens_BT: Tensor, length_B: Tensor, segment_BT: Tensor) -> Tensor:
        """Encodes padded rows.

        Args:
            tokens_BT: Token ids, real ones first.
            length_B: Real tokens of each row, at least one.
            segment_BT: Segment of each token.

        Returns:
            Tokens ``(B, T, D)``; what stands in place of padding has no meaning.

        Raises:
            ConfigError: Rows with more tokens than the model has positions.
        """
        num_tokens = tokens_BT.shape[1]
        self.require_positions(num_tokens)
        if not self.unpad:
            position_T = torch.arange(num_tokens, device=tokens_BT.device)
            padding_BT = position_T >= length_B[:, None]
            x_BTD = self._embed(tokens_BT, position_T, segment_BT)
            return self.transformer(x_BTD, Documents(-padding_BT.int()))
        rows = Unpadded(length_B, num_tokens)
        x_ND = self._embed(rows.unpad(tokens_BT), rows.index_N % num_tokens, rows.unpad(segment_BT))
        return rows.pad(self.transformer(x_ND, rows))

    def require_vocabulary(self, vocab_size: int) -> None:
        """Raises a `ConfigError` where a tokenizer has more tokens than the model."""
        if vocab_size > self.vocab_size:
            raise ConfigError(
                f"the tokenizer has {vocab_size} tokens, and BERT has {self.vocab_size}",
                where="data.tokenizer, vocab_size of BERT in model",
                mend=f"choose the model's own tokenizer, or set BERT's vocab_size={-(-vocab_size // 64) * 64}",
            )

    def require_positions(self, num_tokens: int) -> None:
        """Raises a `ConfigError` where rows have more tokens than the model has positions."""
        if num_tokens > self.context_length:
            raise ConfigError(
                f"texts have {num_tokens} tokens, and BERT has {self.context_length} positions",
                where="data.sequence_length (for CLIP: data.tokenizer.context_length), context_length of BERT in model",
                mend=f"cut texts to {self.context_length} tokens, or set BERT's context_length={num_tokens}",
            )

    def pooled(self, x_BTD: Tensor) -> Tensor:
        """The feature of each row, ``(B, D)``: its first token, through the pooler if there is one."""
        first_BD = x_BTD[:, 0]
        return first_BD if self.pooler is None else torch.tanh(self.pooler(first_BD))

    def flops_per_sample(self, num_tokens: float | None = None) -> float:
        """Training FLOPs of a row of ``num_tokens``, None for a full one; look-ups of embeddings are not counted."""
        num_tokens = num_tokens or self.context_length
        pooler = 0 if self.pooler is None else 6.0 * self.pooler.weight.numel()
        return num_tokens * self.transformer.flops_per_token(num_tokens) + pooler

    def _embed(self, tokens: Tensor, position: Tensor, segment: Tensor) -> Tensor:
        x = self.token_embed(tokens) + F.embedding(position, self.positions) + self.segment_embed(segment)
        return self.dropout(self.norm_embed(x))


def bert_linear(in_features: int, out_features: int) -> Linear:
    """A linear layer with BERT's initial weights."""
    layer = Linear(in_features, out_features)
    nn.init.normal_(layer.weight, std=INIT_STD)
    nn.init.zeros_(layer.bias)
    return layer


def mean_of_tokens(x_BTD: Tensor, length_B: Tensor) -> Tensor:
    """The mean over the real tokens of each row, ``(B, D)`` (Reimers and Gurevych 2019, arXiv:1908.10084)."""
    real_BT = torch.arange(x_BTD.shape[1], device=x_BTD.device) < length_B[:, None]
    return torch.where(real_BT[..., None], x_BTD, 0).sum(1) / length_B[:, None]
