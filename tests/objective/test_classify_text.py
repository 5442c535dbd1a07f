"""Classification of texts: what differs from that of images."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from clip_case import recipe, trainer
from torch.utils.data import DataLoader

from mmtrain.errors import ConfigError
from mmtrain.model.bert import Bert
from mmtrain.model.bert_heads import BertClassifier
from mmtrain.objective.base import Batch
from mmtrain.objective.classify import ClassifyObjective


def objective() -> ClassifyObjective:
    torch.manual_seed(0)
    encoder = Bert(vocab_size=64, context_length=16, d_model=32, num_layers=1, num_heads=2, dropout=0.0)
    return ClassifyObjective(model=BertClassifier(encoder=encoder, num_classes=2, dropout=0.0), optim=recipe())


def texts(lengths: list[int]) -> Batch:
    tokens = torch.ones(len(lengths), 16, dtype=torch.long)
    return {
        "tokens": tokens,
        "length": torch.tensor(lengths),
        "segment": torch.zeros_like(tokens),
        "label": torch.tensor([0, 1]).repeat(len(lengths))[: len(lengths)],
        "weight": torch.ones(len(lengths)),
    }


@dataclass
class FakeNode:
    max_length: int = 16
    vocab_size: int = 64
    num_classes: int = 2


@pytest.mark.parametrize(
    ("node", "message"),
    [(FakeNode(max_length=17), "17 tokens, and BERT has 16 positions"), (FakeNode(vocab_size=65), "65 tokens")],
)
def test_texts_that_do_not_fit_stop_before_training(
    node: FakeNode, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ClassifyObjective, "data", node)
    with pytest.raises(ConfigError, match=message):
        trainer(1).fit(objective(), train_dataloaders=DataLoader([texts([3])], batch_size=None))  # type: ignore[arg-type]


def test_flops_are_those_of_the_real_tokens() -> None:
    small = objective()
    full = small.flops_per_sample
    small.training_step(texts([2, 6]), 0)
    assert small.flops_per_sample == small.model.flops_per_sample(4)  # type: ignore[operator]
    assert small.flops_per_sample < full / 3
