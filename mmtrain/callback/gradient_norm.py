"""The size of the whole gradient."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor


@runtime_checkable
class HoldsGradients(Protocol):
    """A strategy that takes the gradients away from the parameters."""

    def gradient_norm(self) -> Tensor:
        """The 2-norm of all gradients together, over all ranks."""


def gradient_norm(trainer: pl.Trainer, module: pl.LightningModule) -> Tensor:
    """The 2-norm of all gradients together, as a scalar on the device, wherever the strategy keeps them."""
    if isinstance(trainer.strategy, HoldsGradients):
        return trainer.strategy.gradient_norm()
    return total_gradient_norm(module.parameters())


def total_gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """The 2-norm of all gradients together, as a scalar on the device. Sharded gradients are summed over all ranks."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
