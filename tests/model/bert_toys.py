"""Small BERTs and their inputs, for tests."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmtrain.model.bert import Bert
from mmtrain.model.bert_heads import BertPretraining

VOCAB, WIDTH = 128, 32


class Texts(NamedTuple):
    """What `Bert` reads: rows of different lengths."""

    tokens: Tensor
    length: Tensor
    segment: Tensor


def small_bert(**options: Any) -> Bert:
    sizes = {"vocab_size": VOCAB, "context_length": 16, "d_model": WIDTH, "num_layers": 2, "num_heads": 4}
    return Bert(**{**sizes, "dropout": 0.0, **options})


def small_pretraining(**options: Any) -> BertPretraining:
    torch.manual_seed(0)
    return BertPretraining(encoder=small_bert(**options))


def random_texts(lengths: tuple[int, ...] = (12, 5, 16, 1), num_tokens: int = 16, seed: int = 0) -> Texts:
    generator = torch.Generator().manual_seed(seed)
    length = torch.tensor(lengths)
    real = torch.arange(num_tokens) < length[:, None]
    tokens = torch.randint(1, VOCAB, (len(lengths), num_tokens), generator=generator) * real
    segment = (torch.arange(num_tokens) >= length[:, None] // 2).long() * real
    return Texts(tokens, length, segment)
