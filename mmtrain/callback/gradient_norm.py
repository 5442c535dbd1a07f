"""The size of the whole gradient."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import lightning.pytorch as pl
from torch import Tensor

from mmtrain import sharded


@runtime_checkable
class HoldsGradients(Protocol):
    """A strategy that takes the gradients away from the parameters."""

    def gradient_norm(self) -> Tensor:
        """The 2-norm of all gradients together, over all ranks."""


def gradient_norm(trainer: pl.Trainer, module: pl.LightningModule) -> Tensor:
    """The 2-norm of all gradients together, as a scalar on the device, wherever the strategy keeps them."""
    if isinstance(trainer.strategy, HoldsGradients):
        return trainer.strategy.gradient_norm()
    return sharded.total_norm(p.grad for p in module.parameters() if p.grad is not None)
