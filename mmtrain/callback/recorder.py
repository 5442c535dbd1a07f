"""From what a step returns to the rows of the record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.optim import Optimizer

from mmtrain import distributed
from mmtrain.callback.gradient_norm import gradient_norm


class Recorder(pl.Callback):
    """Writes the scalars of training and evaluation to all loggers, with the number of completed steps as the step.

    Of training: every scalar tensor that ``training_step`` returns, as ``train/NAME``, averaged over ranks; the
    gradient's norm before clipping; the learning rate of the step; the epoch and the samples seen. Written at the first
    step, every ``trainer.log_every_n_steps`` and the last. Nothing is read off the device in between.
    Of evaluation: all of ``trainer.callback_metrics`` under ``eval/``, after each validation.

    Args:
        global_batch_size: Samples in a step, over all ranks.
        gradient_norm: Whether to record ``train/gradient_norm``: one more pass over the gradients in the steps written.
    """

    def __init__(self, global_batch_size: int, gradient_norm: bool = True) -> None:
        self.global_batch_size = global_batch_size
        self.gradient_norm = gradient_norm
        self._learning_rate = 0.0
        self._norm: Tensor | None = None

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Notes what the step is made with, before the gradient is clipped and the schedule moves on."""
        if not is_log_step(trainer, trainer.global_step + 1):
            return
        self._learning_rate = max(float(group["lr"]) for group in optimizer.param_groups)
        if self.gradient_norm:
            self._norm = gradient_norm(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Writes a row of training."""
        step = trainer.global_step
        if not is_log_step(trainer, step):
            return
        row = read_scalars(outputs, self._norm)
        self._norm = None
        row["train/learning_rate"] = self._learning_rate
        log_row(trainer, row | self._position(trainer), step)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes a row of evaluation."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        row = {key: float(value) for key, value in trainer.callback_metrics.items() if key.startswith("eval/")}
        log_row(trainer, row | self._position(trainer), trainer.global_step)

    def _position(self, trainer: pl.Trainer) -> dict[str, float]:
        step = trainer.global_step
        return {"epoch": step / trainer.num_training_batches, "samples": float(step * self.global_batch_size)}


def is_log_step(trainer: pl.Trainer, step: int) -> bool:
    """Whether a row of training is written after ``step`` completed steps."""
    interval: int = trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by its logger connector
    return step == 1 or step % interval == 0 or step == trainer.max_steps


def log_row(trainer: pl.Trainer, row: Mapping[str, float], step: int) -> None:
    """Hands a row to every logger, on rank 0."""
    if trainer.is_global_zero:
        for logger in trainer.loggers:
            logger.log_metrics(dict(row), step=step)


def read_scalars(outputs: Any, norm: Tensor | None) -> dict[str, float]:
    """The scalar tensors of a step's outputs, in fp32 and averaged over ranks, as floats; one transfer for all."""
    named = outputs if isinstance(outputs, Mapping) else {"loss": outputs}
    scalars = {f"train/{k}": v.detach() for k, v in named.items() if isinstance(v, Tensor) and v.numel() == 1}
    if norm is not None:
        scalars["train/gradient_norm"] = norm
    if not scalars:
        return {}
    values = torch.stack([value.float().reshape(()) for value in scalars.values()])
    values = distributed.all_reduce_sum(values) / distributed.world_size()
    return dict(zip(scalars, values.tolist(), strict=True))
