"""Random numbers as a pure function of the seed, the step and the rank: nothing to save, and a resume is exact."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch

from mmtrain import distributed


class StepSeed(pl.Callback):
    """Seeds python, numpy and torch (all devices) before every training step and every validation.

    What one step draws therefore depends on no earlier one.

    Args:
        seed: The run's seed.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seeds the step."""
        seed_everything(stable_seed(self.seed, "train", trainer.global_step, distributed.data_parallel_rank()))

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Seeds the validation, apart from the steps around it."""
        seed_everything(stable_seed(self.seed, "eval", trainer.global_step, distributed.data_parallel_rank()))


def stable_seed(*parts: int | str) -> int:
    """A 63-bit number from ``parts``; the same on every machine and in every version of Python."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seed_everything(seed: int) -> None:
    """Seeds python, numpy (by its low 32 bits: it takes no more) and torch on all devices."""
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.manual_seed(seed)
