"""BERT's heads: for pre-training, and for the classification of texts (Devlin et al. 2018, arXiv:1810.04805).

Shape suffixes: B rows, T tokens of a row, M predicted tokens of a row, D model width, V vocabulary, C classes.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from mmtrain.errors import ConfigError
from mmtrain.model.bert import Bert, bert_linear, mean_of_tokens
from mmtrain.nn.linear import linear
from mmtrain.nn.mlp import Activation, activation

Pool = Literal["cls", "mean"]


class MLMHead(nn.Module):
    """A layer, a norm, and the token embedding as decoder, with a bias of its own."""

    def __init__(self, d_model: int, vocab_size: int, activation_name: Activation, norm_eps: float) -> None:
        super().__init__()
        self.dense = bert_linear(d_model, d_model)
        self.activation = activation(activation_name)
        self.norm = nn.LayerNorm(d_model, eps=norm_eps)
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def forward(self, x: Tensor, embedding_VD: Tensor) -> Tensor:
        """Maps tokens ``(..., D)`` to logits ``(..., V)``."""
        return linear(self.norm(self.activation(self.dense(x))), embedding_VD, self.bias)


class BertPretraining(nn.Module):
    """BERT with a masked language model's head; with a pooler, also a head for next sentence prediction.

    Args:
        encoder: The encoder.
        pretrained: Where the weights of a new run come from, heads and all: a run directory or a Hugging Face folder.
    """

    def __init__(self, *, encoder: Bert, pretrained: str | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.pretrained = pretrained
        self.mlm = MLMHead(encoder.d_model, encoder.vocab_size, encoder.activation, encoder.norm_eps)
        self.nsp = bert_linear(encoder.d_model, 2) if encoder.pooler is not None else None

    def forward(
        self, tokens_BT: Tensor, length_B: Tensor, segment_BT: Tensor, position_BM: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Predicts the tokens at ``position_BM``, and whether the second sentence follows the first.

        Args:
            tokens_BT: See `Bert.forward`.
            length_B: See `Bert.forward`.
            segment_BT: See `Bert.forward`.
            position_BM: Positions in each row. The head runs on these only (its cost is that of V / (12 D) blocks for
                each token), and their number is fixed, so that a GPU need not be waited for.

        Returns:
            Logits over the vocabulary, ``(B, M, V)``, and logits of ``is next`` and ``random``, ``(B, 2)``, None
            without a pooler.
        """
        x_BTD = self.encoder(tokens_BT, length_B, segment_BT)
        start_B = torch.arange(len(x_BTD), device=x_BTD.device) * x_BTD.shape[1]
        index = (start_B[:, None] + position_BM).flatten()
        x_BMD = x_BTD.flatten(0, 1).index_select(0, index).unflatten(0, position_BM.shape)
        logits_BMV = self.mlm(x_BMD, self.encoder.token_embed.weight)
        return logits_BMV, None if self.nsp is None else self.nsp(self.encoder.pooled(x_BTD))

    def flops_per_sample(self, num_tokens: float | None = None, num_predicted: float = 0.0) -> float:
        """Training FLOPs of a row, the head's for the predicted tokens only.

        Args:
            num_tokens: Tokens of the row; None for a full one.
            num_predicted: Predicted tokens among them.
        """
        head = 6.0 * (self.mlm.dense.weight.numel() + self.encoder.token_embed.weight.numel())
        nsp = 0.0 if self.nsp is None else 6.0 * self.nsp.weight.numel()
        return self.encoder.flops_per_sample(num_tokens) + num_predicted * head + nsp


class BertClassifier(nn.Module):
    """BERT and a linear layer on one feature of the whole text.

    Args:
        encoder: The encoder.
        num_classes: Outputs: the classes, or 1 for a regression.
        pool: ``cls``: the first token, through the encoder's pooler if it has one; ``mean``: the mean of all tokens.
        dropout: Dropout of the feature.
        pretrained: Where the weights of a new run come from, head and all: a run directory or a Hugging Face folder.

    Attributes:
        inputs: The fields of a batch that `forward` takes.

    Raises:
        ConfigError: The encoder has a pooler that nothing would use.
    """

    inputs = ("tokens", "length", "segment")

    def __init__(
        self,
        *,
        encoder: Bert,
        num_classes: int,
        pool: Pool = "cls",
        dropout: float = 0.1,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        require_no_idle_pooler(encoder, pool)
        self.encoder = encoder
        self.num_classes = num_classes
        self.pool: Pool = pool
        self.pretrained = pretrained
        self.dropout = nn.Dropout(dropout)
        self.head = bert_linear(encoder.d_model, num_classes)

    def forward(self, tokens_BT: Tensor, length_B: Tensor, segment_BT: Tensor) -> Tensor:
        """Logits ``(B, C)``; for the arguments see `Bert.forward`."""
        x_BTD = self.encoder(tokens_BT, length_B, segment_BT)
        feature_BD = self.encoder.pooled(x_BTD) if self.pool == "cls" else mean_of_tokens(x_BTD, length_B)
        return self.head(self.dropout(feature_BD))

    def flops_per_sample(self, num_tokens: float | None = None) -> float:
        """Training FLOPs of a text of ``num_tokens``, None for a full one."""
        return self.encoder.flops_per_sample(num_tokens) + 6.0 * self.head.weight.numel()


def require_no_idle_pooler(encoder: Bert, pool: Pool) -> None:
    """Raises a `ConfigError` where the encoder has a pooler, and the mean of all tokens is taken instead."""
    if pool == "mean" and encoder.pooler is not None:
        raise ConfigError(
            "pool=mean takes the mean of all tokens, and the encoder's pooler would have no use",
            where="model",
            mend="set pooler=false for the encoder, or pool=cls",
        )
