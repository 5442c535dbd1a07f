"""Decoder language models: GPT-2 (Radford et al. 2019) and Llama (Touvron et al. 2023, arXiv:2302.13971) by options.

Shape suffixes: B rows, T tokens of a row, D model width, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmtrain.errors import ConfigError
from mmtrain.nn.attention import Documents
from mmtrain.nn.cache import KVCache
from mmtrain.nn.linear import Linear, linear
from mmtrain.nn.mlp import Activation
from mmtrain.nn.transformer import Norm, Transformer, make_norm


class GPT(nn.Module):
    """Token embedding, causal pre-norm Transformer, final norm and a head without bias.

    GPT-2 is the default; Llama is ``norm="rms"``, ``activation="swiglu"``, ``bias=False``, ``rope_theta=10000`` and,
    from 70B on and since Llama 3, fewer ``num_kv_heads``.

    Args:
        vocab_size: V. A multiple of 64 at or above the tokenizer's is faster on a GPU.
        context_length: Most tokens of a row.
        d_model: Width of the tokens.
        num_layers: Number of Transformer blocks.
        num_heads: Query heads of each block.
        num_kv_heads: Key and value heads; must divide ``num_heads``. None takes ``num_heads``.
        mlp_ratio: Width of the MLP's hidden layer over ``d_model``.
        mlp_hidden: The same as a number, in place of the ratio.
        activation: Non-linearity of the MLP; GPT-2's is the tanh approximation of GELU.
        norm: Kind of all norms.
        norm_eps: Epsilon of the norms.
        bias: Whether linear layers and layer norms have biases.
        qk_norm: Whether queries and keys are normalised.
        rope_theta: Base of a rotary position embedding; None learns ``context_length`` positions.
        tied: Whether the head's weight is the token embedding's.
        dropout: Dropout of the residual branches and of attention weights.
        embed_dropout: Dropout of the embeddings; None takes ``dropout``.
        checkpoint: Whether the activations of each block are computed again in the backward pass, not kept.
        pretrained: Weights that a new run starts from: a run directory or a Hugging Face folder. Not read here.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        context_length: int,
        d_model: int,
        num_layers: int,
        num_heads: int,
        num_kv_heads: int | None = None,
        mlp_ratio: float = 4.0,
        mlp_hidden: int | None = None,
        activation: Activation = "gelu_tanh",
        norm: Norm = "layer",
        norm_eps: float = 1e-5,
        bias: bool = True,
        qk_norm: bool = False,
        rope_theta: float | None = None,
        tied: bool = True,
        dropout: float = 0.0,
        embed_dropout: float | None = None,
        checkpoint: bool = False,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.context_length = context_length
        self.d_model = d_model
        self.pretrained = pretrained
        self.token_embed = nn.Embedding(vocab_size, d_model)
        self.positions = nn.Parameter(torch.empty(context_length, d_model)) if rope_theta is None else None
        self.dropout = nn.Dropout(dropout if embed_dropout is None else embed_dropout)
        self.transformer = Transformer(
            d_model=d_model,
            num_layers=num_layers,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            mlp_ratio=mlp_ratio,
            mlp_hidden=mlp_hidden,
            activation=activation,
            norm=norm,
            norm_eps=norm_eps,
            bias=bias,
            qk_norm=qk_norm,
            rope_theta=rope_theta,
            causal=True,
            dropout=dropout,
            init="gpt2",
            checkpoint=checkpoint,
        )
        self.norm_final = make_norm(norm, d_model, norm_eps, bias=bias)
        self.head = None if tied else Linear(d_model, vocab_size, bias=False)
        nn.init.normal_(self.token_embed.weight, std=0.02)
        if self.positions is not None:
            nn.init.normal_(self.positions, std=0.02)
        if self.head is not None:
            nn.init.normal_(self.head.weight, std=0.02)

    @property
    def head_weight(self) -> Tensor:
        """Weight of the head, ``(V, D)``."""
        return self.token_embed.weight if self.head is None else self.head.weight

    def forward(
        self,
        tokens_BT: Tensor,
        document_BT: Tensor | None = None,
        position_BT: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Maps token ids to the head's input, ``(B, T, D)``; `logits` turns it into scores of the next tokens.

        They are two steps so that a loss need not hold the logits of all tokens at once.

        Args:
            tokens_BT: Token ids.
            document_BT: Number of the document of each token, negative for padding: tokens see their own document
                only. None lets them see their whole row.
            position_BT: Position of each token in its document; None counts from 0 in each row.
            cache: Keys and values of the tokens before, which has been told ``position_BT``.

        Raises:
            ConfigError: Rows of more tokens than the model has positions.
        """
        num_tokens = tokens_BT.shape[1]
        self.require_positions(num_tokens)
        x_BTD = self.token_embed(tokens_BT)
        if self.positions is not None:
            x_BTD = x_BTD + (
                self.positions[:num_tokens] if position_BT is None else F.embedding(position_BT, self.positions)
            )
        layout = None if document_BT is None else Documents(document_BT)
        hidden_BTD: Tensor = self.norm_final(self.transformer(self.dropout(x_BTD), layout, position_BT, cache))
        return hidden_BTD

    def logits(self, hidden_BTD: Tensor) -> Tensor:
        """Scores of the next token, ``(..., V)``, of the output ``(..., D)`` of `forward`."""
        return linear(hidden_BTD, self.head_weight)

    def require_positions(self, num_tokens: int) -> None:
        """Refuses rows that the model has not enough positions for.

        Raises:
            ConfigError: ``num_tokens`` is above ``context_length``.
        """
        if num_tokens > self.context_length:
            raise ConfigError(
                f"rows have {num_tokens} tokens, and the model has {self.context_length} positions",
                where="data.sequence_length, model.context_length",
                mend=f"set data.sequence_length={self.context_length}, or model.context_length={num_tokens}",
            )

    def flops_per_sample(self, num_tokens: int) -> float:
        """Training FLOPs of a row of ``num_tokens``: the Transformer's and the head's; look-ups are not counted."""
        head = 6.0 * self.head_weight.numel()
        return num_tokens * (self.transformer.flops_per_token(num_tokens) + head)
