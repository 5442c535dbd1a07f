"""A BERT encoder as the text tower of a contrastive model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmtrain.model.bert import Bert, mean_of_tokens
from mmtrain.model.bert_heads import Pool, require_no_idle_pooler


class BertTextTower(nn.Module):
    """Texts of one segment -> one feature a text.

    Args:
        encoder: The encoder.
        pool: ``cls``: the first token, through the encoder's pooler if it has one; ``mean``: the mean of all tokens, as
            in MiniLM's sentence encoders.

    Raises:
        ConfigError: The encoder has a pooler that nothing would use.
    """

    def __init__(self, *, encoder: Bert, pool: Pool = "mean") -> None:
        super().__init__()
        require_no_idle_pooler(encoder, pool)
        self.encoder = encoder
        self.pool: Pool = pool
        self.vocab_size = encoder.vocab_size
        self.context_length = encoder.context_length
        self.d_model = encoder.d_model

    def forward(self, text_BT: Tensor) -> Tensor:
        """Maps token ids ``(B, T)``, zero after the end of a text, to features ``(B, D)``.

        Raises:
            ConfigError: Texts with more tokens than the encoder has positions.
        """
        length_B = self.lengths(text_BT)
        x_BTD = self.encoder(text_BT, length_B, torch.zeros_like(text_BT))
        return self.encoder.pooled(x_BTD) if self.pool == "cls" else mean_of_tokens(x_BTD, length_B)

    def lengths(self, text_BT: Tensor) -> Tensor:
        """Tokens of each text without padding, ``(B,)``; one for an empty text."""
        return (text_BT != 0).sum(1).clamp(min=1)

    def flops_per_sample(self, num_tokens: float | None = None) -> float:
        """Training FLOPs of a text of ``num_tokens``, None for a full one."""
        return self.encoder.flops_per_sample(num_tokens)
