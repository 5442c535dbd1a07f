"""The next token, drawn from a model's scores.

Shape suffixes: B rows, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mmtrain.errors import ConfigError


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn. Applied in this order, as everywhere.

    Attributes:
        temperature: Divides the scores; 0 takes the most probable token, whatever the rest says.
        top_k: Keeps the k most probable tokens.
        top_p: Keeps the fewest most probable tokens that have this probability together (nucleus sampling, Holtzman
            et al. 2020, arXiv:1904.09751).

    Raises:
        ConfigError: A number is out of its range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise ConfigError(
                f"temperature={self.temperature} is negative", where="temperature", mend="set 0, for greedy, or more"
            )
        if self.top_k is not None and self.top_k < 1:
            raise ConfigError(f"top_k={self.top_k} keeps no token", where="top_k", mend="set 1 or more")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ConfigError(
                f"top_p={self.top_p} is no share of a probability", where="top_p", mend="set a number above 0, up to 1"
            )


GREEDY = Sampling(temperature=0.0)


def next_token(logits_BV: Tensor, sampling: Sampling, generator: torch.Generator | None = None) -> Tensor:
    """Draws a token for each row, ``(B,)``.

    Args:
        logits_BV: Scores.
        sampling: How to draw.
        generator: Source of the draws, on the device of the scores; None takes PyTorch's own.
    """
    if sampling.temperature == 0:
        return logits_BV.argmax(dim=-1)
    return torch.multinomial(probabilities(logits_BV, sampling), 1, generator=generator)[:, 0]


def probabilities(logits_BV: Tensor, sampling: Sampling) -> Tensor:
    """Probabilities that tokens are drawn with, ``(B, V)`` in fp32, for a temperature above 0."""
    logits_BV = logits_BV.float() / sampling.temperature
    if sampling.top_k is not None:
        least_B1 = logits_BV.topk(min(sampling.top_k, logits_BV.shape[-1])).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < least_B1, -torch.inf)
    probability_BV = logits_BV.softmax(dim=-1)
    if sampling.top_p is not None:
        sorted_BV, order_BV = probability_BV.sort(dim=-1, descending=True, stable=True)
        before_BV = sorted_BV.cumsum(dim=-1) - sorted_BV
        kept_BV = torch.empty_like(order_BV, dtype=torch.bool).scatter_(1, order_BV, before_BV < sampling.top_p)
        probability_BV = probability_BV.masked_fill(~kept_BV, 0.0)
    return probability_BV / probability_BV.sum(dim=-1, keepdim=True)
