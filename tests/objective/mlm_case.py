"""A small BERT in pre-training, and batches with masked counts that differ from row to row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader

from mmtrain import distributed
from mmtrain.model.bert import Bert
from mmtrain.model.bert_heads import BertPretraining
from mmtrain.objective.base import Batch
from mmtrain.objective.mlm import NO_LABEL, MaskedLanguageModel
from mmtrain.optim.adamw import AdamW
from mmtrain.optim.schedule import Linear

VOCAB, TOKENS, LABELS = 96, 16, 4


def small_objective(*, micro_batch_size: int | None = None, **options: Any) -> MaskedLanguageModel:
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCAB, "context_length": TOKENS, "d_model": 32, "num_layers": 2, "num_heads": 4}
    encoder = Bert(**{**sizes, "dropout": 0.0, **options})
    optim = AdamW(lr=2e-3, schedule=Linear(warmup_steps=2), weight_decay=0.01)
    return MaskedLanguageModel(model=BertPretraining(encoder=encoder), optim=optim, micro_batch_size=micro_batch_size)


def random_batch(rows: int, seed: int = 0, filler: int = 0) -> Batch:
    """Rows of 3 to 16 tokens with 1 to 4 labels, one in four without a pair; the last ``filler`` rows do not count."""
    generator = torch.Generator().manual_seed(seed)
    length = torch.randint(3, TOKENS + 1, (rows,), generator=generator)
    real = torch.arange(TOKENS) < length[:, None]
    position = torch.stack([torch.randperm(3, generator=generator)[[0, 1, 2, 2]] for _ in range(rows)])
    used = torch.arange(LABELS) < torch.randint(1, LABELS, (rows, 1), generator=generator)
    label = torch.randint(5, VOCAB, (rows, LABELS), generator=generator)
    following = torch.randint(0, 2, (rows,), generator=generator)
    following[torch.rand(rows, generator=generator) < 0.25] = NO_LABEL
    return {
        "tokens": torch.randint(5, VOCAB, (rows, TOKENS), generator=generator) * real,
        "length": length,
        "segment": (torch.arange(TOKENS) >= length[:, None] // 2).long() * real,
        "masked_position": position * used,
        "masked_label": label.where(used, NO_LABEL),
        "next_sentence": following,
        "weight": (torch.arange(rows) < rows - filler).float(),
        "key": [str(number) for number in range(rows)],
    }


def share(batch: Batch) -> Batch:
    """This rank's part of a batch."""
    size = len(batch["weight"]) // distributed.data_parallel_size()
    start = distributed.data_parallel_rank() * size
    return {name: field[start : start + size] for name, field in batch.items()}


@dataclass
class EvalSet:
    loader: Any


class Data(pl.LightningDataModule):
    """What the objective asks of a data module and of its data node."""

    def __init__(self, train: list[Batch], evaluation: dict[str, list[Batch]], **sizes: int) -> None:
        super().__init__()
        self.train = train
        self.evaluation = evaluation
        self.eval_sets: dict[str, EvalSet] = {}
        self.vocab_size = sizes.get("vocab_size", VOCAB)
        self.sequence_length = sizes.get("sequence_length", TOKENS)
        self.next_sentence = sizes.get("next_sentence", True)

    @property
    def data(self) -> Data:
        return self

    def setup(self, stage: str) -> None:
        self.eval_sets = {name: EvalSet(_loader(batches)) for name, batches in self.evaluation.items()}

    def train_dataloader(self) -> Any:
        return _loader(self.train)

    def val_dataloader(self) -> list[Any]:
        return [eval_set.loader for eval_set in self.eval_sets.values()]


def _loader(batches: list[Batch]) -> Any:
    return DataLoader([share(batch) for batch in batches], batch_size=None)  # type: ignore[arg-type]


class Steps(pl.Callback):
    """Keeps what every step returns."""

    def __init__(self) -> None:
        self.outputs: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.outputs.append({name: value.item() for name, value in outputs.items()})


def trainer(max_steps: int = -1, **options: Any) -> pl.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "barebones": False}
    return pl.Trainer(
        **{"accelerator": "cpu", "devices": 1, **quiet, **options},
        max_steps=max_steps,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        use_distributed_sampler=False,
    )


def fit(objective: MaskedLanguageModel, batches: list[Batch], **options: Any) -> list[dict[str, float]]:
    """Trains one step on each batch; what the steps return."""
    steps = Steps()
    trainer(len(batches), callbacks=[steps], **options).fit(objective, datamodule=Data(batches, {}))
    return steps.outputs
