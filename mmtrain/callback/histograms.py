"""Histograms of parameters and gradients, for those who look for what saturates, dies or explodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import lightning.pytorch as pl
from lightning.pytorch.trainer.states import TrainerFn
from torch.optim import Optimizer

from mmtrain.callback.gradient_norm import HoldsGradients
from mmtrain.callback.histogram import Histogram, histograms
from mmtrain.errors import ConfigError

_MOST_BINS = 512  # that W&B takes


@runtime_checkable
class TakesHistograms(Protocol):
    """A logger that takes histograms."""

    def log_histogram(self, key: str, counts: Sequence[int], edges: Sequence[float], step: int) -> None: ...


class Histograms(pl.Callback):
    """Logs a histogram of each trained parameter, after the step, and of its gradient, before it is clipped.

    They are ``histogram/parameter/NAME`` and ``histogram/gradient/NAME``, of all elements whatever the strategy, and
    come every ``every_n_steps``; between them nothing is done. What is not finite is left out.

    Args:
        every_n_steps: Optimizer steps from one to the next.
        bins: Of each histogram, 1 to 512.
        parameters: Whether of parameters.
        gradients: Whether of gradients.

    Raises:
        ConfigError: A number is out of its range.
    """

    def __init__(
        self, every_n_steps: int = 500, bins: int = 64, parameters: bool = True, gradients: bool = True
    ) -> None:
        if every_n_steps < 1 or not 1 <= bins <= _MOST_BINS:
            raise ConfigError(
                f"every_n_steps={every_n_steps}, bins={bins} cannot be",
                where="callback.histograms",
                mend=f"at least 1 step, and 1 to {_MOST_BINS} bins",
            )
        self.every_n_steps = every_n_steps
        self.bins = bins
        self.parameters = parameters
        self.gradients = gradients
        self._of_gradients: dict[str, Histogram] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Makes sure that there is something to see, and somebody who shows it.

        Raises:
            ConfigError: There is not.
        """
        if stage != TrainerFn.FITTING:
            return
        if isinstance(trainer.strategy, HoldsGradients):
            raise ConfigError(
                "this strategy keeps gradients and parameters where no histogram can be made of them",
                where="callback.histograms",
                mend="strategy=fsdp or strategy=ddp; or leave the histograms out: ~callback.histograms",
            )
        if not any(isinstance(logger, TakesHistograms) for logger in trainer.loggers):
            raise ConfigError(
                "no logger takes histograms", where="callback.histograms", mend="logger=wandb, or ~callback.histograms"
            )

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Counts gradients, before they are clipped."""
        if self.gradients and self._is_due(trainer.global_step + 1):
            named = pl_module.named_parameters()
            gradients = {name: parameter.grad for name, parameter in named if parameter.grad is not None}
            self._of_gradients = histograms(gradients, self.bins)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts parameters, and logs."""
        step = trainer.global_step
        if not self._is_due(step):
            return
        found = {f"histogram/gradient/{name}": each for name, each in self._of_gradients.items()}
        self._of_gradients = {}
        if self.parameters:
            named = pl_module.named_parameters()
            trained = {name: parameter for name, parameter in named if parameter.requires_grad}
            found |= {f"histogram/parameter/{k}": each for k, each in histograms(trained, self.bins).items()}
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                if isinstance(logger, TakesHistograms):
                    for key, each in found.items():
                        logger.log_histogram(key, each.counts, each.edges, step)

    def _is_due(self, step: int) -> bool:
        return step % self.every_n_steps == 0
