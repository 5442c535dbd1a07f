"""Steps that would harm the model are not made."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.optim import Optimizer

from mmtrain import distributed
from mmtrain.callback.alert import alert
from mmtrain.callback.gradient_norm import gradient_norm
from mmtrain.callback.recorder import is_log_step, log_row
from mmtrain.errors import ConfigError, RunError
from mmtrain.optim.skip import skip_where

_LOG = logging.getLogger(__name__)
_BATCHES_KNOWN = 64
_KEYS_NAMED = 8


class Guard(pl.Callback):
    """Skips a step whose loss or gradient is not finite, or whose gradient is much larger than those before it.

    A skipped step leaves parameters, the optimizer's state and averaged weights as they were, bit for bit; the batch
    counts as seen, and the schedule moves on. Ranks decide by the mean over ranks of their losses and gradient norms,
    so all decide alike, and one rank's NaN is everyone's.

    Nothing waits for the device in between the rows of training: decision and counters stay on it. Where a row is
    written, the counters are read, ``train/skipped_steps`` is recorded once there is one, and a run that goes on
    skipping is ended: up to ``trainer.log_every_n_steps`` steps late, of which none was made.

    Args:
        spike_factor: A gradient norm above this many times the median of those of the last ``window`` steps made is a
            spike, once there are more than half as many. None skips only what is not finite, and so never changes a
            healthy run.
        window: Gradient norms that the median is taken of.
        consecutive_limit: Steps in a row that may be skipped.
        total_limit: Steps of the whole run that may be skipped.

    Raises:
        ConfigError: The factor is not above 1.
    """

    def __init__(
        self,
        spike_factor: float | None = None,
        window: int = 128,
        consecutive_limit: int = 20,
        total_limit: int = 1000,
    ) -> None:
        if spike_factor is not None and spike_factor <= 1:
            raise ConfigError(
                f"spike_factor={spike_factor} would skip every second step",
                where="callback.guard",
                mend="set a number above 1, such as 10, or null for no limit",
            )
        self.spike_factor = spike_factor
        self.window = window
        self.consecutive_limit = consecutive_limit
        self.total_limit = total_limit
        self.skipped: Tensor | None = None
        """Whether the last step was skipped: a scalar on the device."""
        self._norms = torch.full((window,), math.inf)
        self._counts = torch.zeros(3, dtype=torch.int64)  # skipped in all, in a row, most in a row since the last look
        self._last = torch.zeros(4)  # of the last step skipped: step, loss, gradient norm, this rank's loss
        self._loss = torch.zeros(())
        self._keys: deque[tuple[int, Any]] = deque(maxlen=_BATCHES_KNOWN)
        self._told = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Moves the counters to the device."""
        device = trainer.strategy.root_device
        self._norms, self._counts, self._last = (x.to(device) for x in (self._norms, self._counts, self._last))

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Notes which samples the step is made of."""
        if isinstance(batch, Mapping) and "key" in batch:
            self._keys.append((trainer.global_step + 1, batch["key"]))

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Notes the loss."""
        self._loss = loss.detach()

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Decides, before the gradient is clipped: a norm that is not finite would make all of it so."""
        own = torch.stack([self._loss.float(), gradient_norm(trainer, pl_module).float()])
        # In a sum of several ranks' values, one that is not finite stays so.
        loss, norm = values = distributed.all_reduce_sum(own) / distributed.world_size()
        skipped = ~values.isfinite().all()
        if self.spike_factor is not None:
            skipped |= norm > self.spike_factor * self._norms.median()
        skip_where(skipped, optimizer)
        self.skipped = skipped

        total, in_a_row, most = self._counts
        in_a_row = torch.where(skipped, in_a_row + 1, 0)
        self._counts = torch.stack([total + skipped, in_a_row, torch.maximum(most, in_a_row)])
        self._norms = torch.where(skipped, self._norms, torch.cat([self._norms[1:], norm[None]]))
        step = torch.full_like(norm, trainer.global_step + 1)
        self._last = torch.where(skipped, torch.stack([step, loss, norm, own[0]]), self._last)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts where a row of training is written, on all ranks alike.

        Raises:
            RunError: More steps were skipped than the limits allow.
        """
        if not is_log_step(trainer, trainer.global_step):
            return
        total, in_a_row, most = self._counts.tolist()
        self._counts[2] = in_a_row
        if total == 0:
            return
        log_row(trainer, {"train/skipped_steps": float(total)}, trainer.global_step)
        if total == self._told:
            return
        new, self._told = total - self._told, total
        last = self._find_last()
        _LOG.warning("skipped %d steps up to step %d, %d in all; the last: %s", new, trainer.global_step, total, last)
        text = f"{new} up to step {trainer.global_step}, {total} in all; the last: {last}"
        alert(trainer, "Steps skipped", text, "WARN")
        for name, count, limit in (
            ("consecutive_limit", most, self.consecutive_limit),
            ("total_limit", total, self.total_limit),
        ):
            if count > limit:
                in_a_row = " in a row" if name == "consecutive_limit" else ""
                reason = f"{count} steps{in_a_row} were skipped, more than callback.guard.{name} = {limit}"
                alert(trainer, "Stopped", reason, "ERROR")
                raise RunError(
                    reason,
                    where=str(last),
                    mend="look at these samples; lower the learning rate or warm up longer; or raise the limit",
                )

    def state_dict(self) -> dict[str, Any]:
        """Counters and gradient norms."""
        return {"norms": self._norms.cpu(), "counts": self._counts.cpu()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on counting."""
        self._norms, self._counts = state_dict["norms"], state_dict["counts"]
        self._told = int(self._counts[0])

    def _find_last(self) -> _Skipped:
        """The last step skipped, with the samples of the ranks whose own loss was not finite, or of all."""
        step, loss, norm, own_loss = self._last.tolist()
        keys: Any = next((keys for at, keys in reversed(self._keys) if at == step), [])
        own = (own_loss, [keys] if isinstance(keys, str) else list(keys))
        ranks = distributed.all_gather_object(own, distributed.data_parallel_group())
        guilty = [keys for own, keys in ranks if not math.isfinite(own)] or [keys for _, keys in ranks]
        return _Skipped(int(step), loss, norm, [key for keys in guilty for key in keys])


def step_skipped(trainer: pl.Trainer) -> Tensor | None:
    """Whether the guard skipped the last step, a scalar on the device; None where there is no guard."""
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set by its callback connector
    return next((callback.skipped for callback in callbacks if isinstance(callback, Guard)), None)


@dataclass(frozen=True)
class _Skipped:
    step: int
    loss: float
    norm: float
    keys: list[str]

    def __str__(self) -> str:
        named = ", ".join(map(str, self.keys[:_KEYS_NAMED]))
        more = f" and {len(self.keys) - _KEYS_NAMED} more" if len(self.keys) > _KEYS_NAMED else ""
        samples = f", samples {named}{more}" if self.keys else ""
        return f"step {self.step}, loss {self.loss:.4g}, gradient norm {self.norm:.4g}{samples}"
