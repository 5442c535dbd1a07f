"""Samples that could not be used are counted over all ranks, named in the log, and too many end the run."""

from __future__ import annotations

import logging
from typing import Any, Protocol, runtime_checkable

import lightning.pytorch as pl

from mmtrain import distributed
from mmtrain.callback.recorder import is_log_step, log_row
from mmtrain.errors import DataError

_LOG = logging.getLogger(__name__)
_NAMED = 20  # messages of one report that go to the log


@runtime_checkable
class ReportsFaults(Protocol):
    """A data module that may go on after a bad sample."""

    def take_faults(self) -> list[str]:
        """A message for each sample that was left out on this rank since the last call."""


class Faults(pl.Callback):
    """Every ``trainer.log_every_n_steps``: gathers the samples left out (``data.on_fault=skip``) from all ranks.

    Writes ``data/faults``, their number since the start of the run, once there is one, and names them in the log.

    Args:
        limit: Samples that may be left out in the whole run, over all ranks.
    """

    def __init__(self, limit: int = 1000) -> None:
        self.limit = limit
        self.total = 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts where a row of training is written, on all ranks alike.

        Raises:
            DataError: There are more than the limit.
        """
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not is_log_step(trainer, trainer.global_step) or not isinstance(data, ReportsFaults):
            return
        of_ranks = distributed.all_gather_object(data.take_faults(), distributed.data_parallel_group())
        found = [fault for faults in of_ranks for fault in faults]
        self.total += len(found)
        if trainer.is_global_zero and found:
            for fault in found[:_NAMED]:
                _LOG.warning("left out a sample: %s", fault)
            _LOG.warning("left out %d samples up to step %d, %d in all", len(found), trainer.global_step, self.total)
        if self.total:
            log_row(trainer, {"data/faults": float(self.total)}, trainer.global_step)
        if self.total > self.limit:
            reason = f"{self.total} samples could not be used, more than callback.faults.limit = {self.limit}"
            mend = f"mend the data set, or set callback.faults.limit higher; the last one: {found[-1]}"
            raise DataError(reason, where=f"step {trainer.global_step}", mend=mend)

    def state_dict(self) -> dict[str, Any]:
        """The count so far."""
        return {"total": self.total}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on counting."""
        self.total = state_dict["total"]
