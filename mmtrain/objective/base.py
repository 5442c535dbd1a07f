"""What all objectives have in common: a model, a recipe of its optimizer, and batches in parts that fit the device."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any, Protocol

import lightning.pytorch as pl
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from mmtrain import distributed
from mmtrain.optim.named import save_by_name
from mmtrain.optim.schedule import Schedule

Batch = dict[str, Any]


class Optim(Protocol):
    """Recipe of an optimizer and of its learning rate over the run."""

    schedule: Schedule

    def build(self, model: nn.Module) -> Optimizer: ...


class Objective(pl.LightningModule):
    """A model that is trained with one loss.

    Args:
        model: The network.
        optim: Optimizer and schedule.
        micro_batch_size: Rows that are on the device at once; None takes a rank's whole share of a batch. It changes no
            result.
    """

    def __init__(self, *, model: nn.Module, optim: Optim, micro_batch_size: int | None = None) -> None:
        super().__init__()
        self.model = model
        self.optim = optim
        self.micro_batch_size = micro_batch_size

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """The optimizer, and its learning rate as a function of the step."""
        schedule, total_steps = self.optim.schedule, self.trainer.max_steps
        if (warmup := schedule.warmup(total_steps)) > total_steps:
            warnings.warn(f"the warmup of {warmup} steps is longer than the run of {total_steps}", stacklevel=2)
        optimizer = self.optim.build(self.model)
        save_by_name(optimizer, self)
        factor = partial(schedule.factor, total_steps=total_steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"},
        }

    @property
    def data(self) -> Any:
        """The run's data node."""
        return self.trainer.datamodule.data  # type: ignore[attr-defined]

    @property
    def eval_sets(self) -> dict[str, Any]:
        """The evaluation sets by name, in the order of ``dataloader_idx``."""
        eval_sets: dict[str, Any] = self.trainer.datamodule.eval_sets  # type: ignore[attr-defined]
        return eval_sets

    def parts(self, batch: Batch) -> list[Batch]:
        """A batch in micro-batches: every field is cut along its first dimension."""
        rows = len(batch["weight"])
        size = self.micro_batch_size or rows
        return [{name: field[at : at + size] for name, field in batch.items()} for at in range(0, rows, size)]


def share_of(count: Tensor) -> Tensor:
    """What a rank divides the sum of its losses by, so that the mean over ranks is the mean over the global batch.

    Args:
        count: The rank's number of valid tokens, pairs or samples; a scalar, or a vector of several such numbers.

    Returns:
        ``global count / ranks`` of each, in fp32; at least one over the number of ranks.
    """
    total = distributed.all_reduce_sum(count.float(), distributed.data_parallel_group())
    return total.clamp(min=1) / distributed.data_parallel_size()
