"""What one process group trains and measures, and the GPT that it trains."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader

from mmtrain.model.gpt import GPT
from mmtrain.objective.base import Batch
from mmtrain.objective.lm import LanguageModel
from mmtrain.optim.adamw import AdamW
from mmtrain.optim.schedule import Constant

STRATEGIES = ("none", "ddp", "zero1", "zero2", "zero3", "fsdp", "tp")
WARMUP = 2
BESIDE = 3
"""Steps after the beginning of a save in the background, some of them while it is written."""


class Size(NamedTuple):
    """Of the model."""

    num_layers: int
    d_model: int
    num_heads: int
    vocab_size: int


BASE = Size(12, 768, 12, 32_768)
TINY = Size(2, 64, 2, 512)
"""To see that it works; its figures mean nothing."""


@dataclass(frozen=True)
class Task:
    """One measurement.

    Attributes:
        strategy: One of `STRATEGIES`.
        world: Number of ranks.
        rows: Of each rank; under ``tp`` of all of them, which share every block.
        tokens: Of a row.
        steps: That are timed.
        saves: Checkpoints of each way to write them.
        device: ``cpu`` or ``cuda``.
        precision: Lightning's.
        tiny: Whether the model is `TINY`.
    """

    strategy: str
    world: int
    rows: int
    tokens: int
    steps: int
    saves: int
    device: str
    precision: str
    tiny: bool

    @property
    def size(self) -> Size:
        return TINY if self.tiny else BASE

    @property
    def all_rows(self) -> int:
        """Of all ranks."""
        return self.rows * (1 if self.strategy == "tp" else self.world)

    @property
    def in_shards(self) -> bool:
        """Whether a checkpoint is a folder of shards."""
        return self.strategy in ("fsdp", "tp")

    @property
    def save_after(self) -> dict[int, bool]:
        """The steps that are followed by a save, from 0, and whether it is written in the background.

        That is asked of folders of shards only.
        """
        first = WARMUP + self.steps
        waited = {first + number: False for number in range(self.saves)}
        in_background = {first + self.saves + BESIDE * number: True for number in range(self.saves)}
        return waited | (in_background if self.in_shards else {})

    @property
    def total_steps(self) -> int:
        """All steps: to warm up, timed, one of which memory is measured, and those between and beside the saves."""
        last = max(self.save_after, default=WARMUP + self.steps)
        return last + 1 + (BESIDE if self.in_shards and self.saves else 0)

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def objective_of(task: Task) -> LanguageModel:
    """The model with AdamW, the same on all ranks."""
    torch.manual_seed(0)
    size = task.size._asdict()
    optim = AdamW(lr=1e-4, schedule=Constant())
    return LanguageModel(model=GPT(context_length=task.tokens, **size), optim=optim, document_mask=False)


class Data(pl.LightningDataModule):
    """Random rows, and what the objective asks of a data node."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task
        self.vocab_size = task.size.vocab_size
        self.sequence_length = task.tokens

    @property
    def data(self) -> Data:
        return self

    def train_dataloader(self) -> Any:
        batches = [self._batch(seed) for seed in range(4)]
        rounds = -(-self.task.total_steps // len(batches))
        return DataLoader(batches * rounds, batch_size=None)  # type: ignore[arg-type]

    def _batch(self, seed: int) -> Batch:
        rows, num_tokens = self.task.rows, self.task.tokens + 1
        generator = torch.Generator().manual_seed(seed)
        tokens = torch.randint(0, self.vocab_size, (rows, num_tokens), generator=generator)
        return {
            "tokens": tokens,
            "position": torch.arange(num_tokens, dtype=torch.int32).expand_as(tokens),
            "document": torch.zeros_like(tokens, dtype=torch.int32),
            "weight": torch.ones(rows),
        }
