"""A small decoder in training, and rows with targets that differ in number from row to row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch.utils.data import DataLoader

from mmtrain import distributed
from mmtrain.model.gpt import GPT
from mmtrain.objective.base import Batch
from mmtrain.objective.lm import LanguageModel
from mmtrain.optim.adamw import AdamW
from mmtrain.optim.schedule import Cosine

VOCAB, TOKENS = 64, 16
LLAMA: dict[str, Any] = {"norm": "rms", "activation": "swiglu", "bias": False, "rope_theta": 1e4, "num_kv_heads": 2}


def small_objective(
    *,
    micro_batch_size: int | None = None,
    document_mask: bool = True,
    z_loss: float = 0.0,
    style: dict[str, Any] | None = None,
    **options: Any,
) -> LanguageModel:
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCAB, "context_length": TOKENS, "d_model": 32, "num_layers": 2, "num_heads": 4}
    optim = AdamW(lr=2e-3, schedule=Cosine(warmup_steps=2), betas=(0.9, 0.95), weight_decay=0.1)
    return LanguageModel(
        model=GPT(**{**sizes, **(style or {}), **options}),
        optim=optim,
        micro_batch_size=micro_batch_size,
        document_mask=document_mask,
        z_loss=z_loss,
    )


def random_batch(rows: int, seed: int = 0, filler: int = 0) -> Batch:
    """Rows of one to three documents and up to nine places without a token; the last ``filler`` rows do not count."""
    generator = torch.Generator().manual_seed(seed)
    cuts = torch.randint(1, TOKENS, (rows, 2), generator=generator).sort(dim=1).values
    place = torch.arange(TOKENS + 1)
    document = (place >= cuts[:, :1]).int() + (place >= cuts[:, 1:]).int()
    start = torch.where(document == 0, 0, cuts.gather(1, (document.long() - 1).clamp(min=0)))
    length = torch.randint(TOKENS - 8, TOKENS + 2, (rows, 1), generator=generator)
    return {
        "tokens": torch.randint(0, VOCAB, (rows, TOKENS + 1), generator=generator),
        "document": document.where(place < length, -1),
        "position": (place - start).int(),
        "weight": (torch.arange(rows) < rows - filler).float(),
        "key": [str(number) for number in range(rows)],
    }


def share(batch: Batch) -> Batch:
    """This rank's part of a batch."""
    size = len(batch["weight"]) // distributed.data_parallel_size()
    start = distributed.data_parallel_rank() * size
    return {name: field[start : start + size] for name, field in batch.items()}


class Tokenizer:
    """Token n is the letter n, and stands for ``n % 3 + 1`` bytes."""

    vocab_size = VOCAB
    eos = None

    def token_bytes(self) -> np.ndarray:
        return np.arange(VOCAB, dtype=np.int64) % 3 + 1

    def encode(self, text: str) -> list[int]:
        return [ord(letter) % VOCAB for letter in text]

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def decode_batch(self, rows: list[list[int]]) -> list[str]:
        return ["".join(chr(256 + number) for number in row) for row in rows]


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
        self.tokenizer = Tokenizer()

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
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return pl.Trainer(
        **{"accelerator": "cpu", "devices": 1, **quiet, **options},
        max_steps=max_steps,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        use_distributed_sampler=False,
    )


def fit(objective: LanguageModel, batches: list[Batch], **options: Any) -> list[dict[str, float]]:
    """Trains one step on each batch; what the steps return."""
    steps = Steps()
    trainer(len(batches), callbacks=[steps], **options).fit(objective, datamodule=Data(batches, {}))
    return steps.outputs
