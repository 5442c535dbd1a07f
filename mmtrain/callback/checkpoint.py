"""When checkpoints are written, and which are kept."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint as LightningCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from mmtrain import distributed
from mmtrain.callback.checkpoint_io import (
    CheckpointRecord,
    checkpoint_path,
    delete_checkpoint,
    delete_unfinished,
    list_checkpoints,
    read_record,
    write_json,
)
from mmtrain.callback.checkpoint_writer import Save, Writer
from mmtrain.callback.loop_state import canonical_fit_loop
from mmtrain.callback.recorder import is_log_step
from mmtrain.errors import ConfigError, RunError, did_you_mean

_LOG = logging.getLogger(__name__)


class Checkpoint(LightningCheckpoint):
    """Writes ``checkpoints/step_XXXXXXXX.ckpt`` under the trainer's ``default_root_dir``.

    A checkpoint of step S holds everything up to and including the validation of step S, and no clock, path or timing:
    two identical runs write identical checkpoints. One is always written at the last step and when the trainer was
    asked to stop. Lightning's base class makes this callback run after all others, so that the rows of step S are on
    disk before its checkpoint.

    It is one file, or a folder of shards where the strategy shards the model; the content is the same, and a run goes
    on from either under any strategy and number of ranks. A checkpoint that cannot be written, as the disk is full,
    leaves those before it as they are: the run is warned and goes on, and ends with an error if it was the last one.

    Args:
        every_n_steps: Optimizer steps between checkpoints; None for none by step.
        every_n_minutes: Minutes of wall clock between checkpoints, by rank 0's clock; None for none by time.
        keep_last: How many of the newest checkpoints stay. The best one always stays.
        monitor: Evaluation metric that decides which is best, e.g. ``eval/new_concept/top1``; None for no best.
        mode: Whether the best is the largest or the smallest.
        background: Whether a folder of shards is written while training goes on. It takes as much of the host's memory
            as the shards of its ranks.
    """

    def __init__(
        self,
        every_n_steps: int | None = None,
        every_n_minutes: float | None = None,
        keep_last: int = 2,
        monitor: str | None = None,
        mode: Literal["max", "min"] = "max",
        background: bool = True,
    ) -> None:
        if keep_last < 1:
            raise ConfigError(f"keep_last is {keep_last}", where="callback", mend="keep at least one checkpoint")
        if mode not in ("max", "min"):
            raise ConfigError(f"mode is {mode!r}", where="callback", mend="use 'max' or 'min'")
        self.every_n_steps = every_n_steps
        self.every_n_minutes = every_n_minutes
        self.keep_last = keep_last
        self.monitor = monitor
        self.mode = mode
        self._writer = Writer(self._sealed, background)
        self._validates = False
        self._validated_step = -1
        self._saved_step = -1
        self._saved_at = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the clock. A fresh model is not saved: the config and the seed are its checkpoint."""
        self._validates = trainer.enable_validation
        self._saved_at = time.monotonic()
        if trainer.is_global_zero:
            delete_unfinished(self._directory(trainer))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves after a step at which no validation follows."""
        if self._writer.finished:
            self._settle(trainer)
        validation_follows = trainer.enable_validation and (self._validation_due(trainer) or trainer.should_stop)
        if not validation_follows and self._due(trainer):
            self.save(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves after a validation, so that no kill in between loses its row."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        self._validated_step = trainer.global_step
        metrics = self._metrics(trainer)
        if self.monitor is not None and self.monitor not in metrics:
            raise ConfigError(
                f"the monitored metric {self.monitor!r} was not logged by the validation",
                where="callback: monitor",
                mend=did_you_mean(self.monitor, metrics),
            )
        if self.monitor is not None:
            self._settle(trainer)  # it may be the best
        best = trainer.is_global_zero and self._is_best(self._directory(trainer), trainer.global_step, metrics)
        if self._due(trainer) or distributed.any_rank(best, trainer.strategy.root_device):
            self.save(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves where the training ended before its last step, and nothing has been saved yet."""
        self._settle(trainer)
        if self._saved_step != trainer.global_step:
            self.save(trainer)
            self._settle(trainer, last=True)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Brings the loops' state to its canonical form, in every checkpoint that the trainer writes."""
        if trainer.state.fn != TrainerFn.FITTING:
            return
        checkpoint["loops"]["fit_loop"] = canonical_fit_loop(
            checkpoint["loops"]["fit_loop"],
            steps_per_epoch=trainer.num_training_batches,
            validation_due=self._validates and self._validation_due(trainer),
            validated=self._validated_step == trainer.global_step,
        )
        checkpoint["epoch"] = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["completed"]

    def save(self, trainer: pl.Trainer) -> None:
        """Writes the checkpoint of this step, or begins to; those that need not stay are then deleted.

        All ranks must call it. Strategies give the content, and this writes it: Lightning's ``save_checkpoint`` has
        each strategy write in a form of its own, and ends with a barrier that a rank whose disk is full never reaches.

        Raises:
            RunError: This was the last checkpoint of the training, and it could not be written.
        """
        step = trainer.global_step
        path = checkpoint_path(self._directory(trainer), step)
        content = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        self._settle(trainer)
        metrics = self._metrics(trainer) if self._validated_step == step else {}
        best = trainer.is_global_zero and self._is_best(path.parent, step, metrics)
        self._writer.start(content, Save(path, step, metrics, best))
        self._saved_step = step
        self._saved_at = time.monotonic()
        if trainer.should_stop or step == trainer.max_steps:
            self._settle(trainer, last=True)

    def _settle(self, trainer: pl.Trainer, *, last: bool = False) -> None:
        """Waits for the checkpoint that is being written, if one is, and faces what became of it."""
        written = self._writer.wait()
        if written is None or written.error is None:
            return
        message = f"step {written.save.step} could not be saved: {written.error}"
        where, mend = str(written.save.path), "free some space there, or raise the quota"
        if last:
            mend = f"{mend}; then resume the run: the checkpoints before it are as they were"
            raise RunError(message, where=where, mend=mend)
        self._saved_step = -1
        _LOG.warning("%s (%s); training goes on until the next checkpoint is due. %s", message, where, mend)

    def _sealed(self, save: Save, record: CheckpointRecord) -> None:
        directory = save.path.parent
        if save.best:
            write_json(directory / "best.json", {"file": record.file, "step": save.step, "monitor": self.monitor})
        self._delete_old(directory, save.step)

    def _due(self, trainer: pl.Trainer) -> bool:
        step = trainer.global_step
        if step == self._saved_step:
            return False
        if trainer.should_stop or step == trainer.max_steps:
            return True
        if self.every_n_steps is not None and step % self.every_n_steps == 0:
            return True
        # The ranks' clocks differ and saving is a collective, so they ask one another; not at every step, since the
        # answer makes the host wait for the device.
        if self.every_n_minutes is None or not is_log_step(trainer, step):
            return False
        elapsed = time.monotonic() - self._saved_at >= 60 * self.every_n_minutes
        return distributed.any_rank(trainer.is_global_zero and elapsed, trainer.strategy.root_device)

    def _validation_due(self, trainer: pl.Trainer) -> bool:
        interval = trainer.val_check_batch
        batches = trainer.fit_loop.total_batch_idx + 1
        return interval is not None and math.isfinite(interval) and batches % int(interval) == 0

    def _is_best(self, directory: Path, step: int, metrics: Mapping[str, float]) -> bool:
        if self.monitor is None or self.monitor not in metrics or math.isnan(metrics[self.monitor]):
            return False
        best = read_best(directory)
        if best is None or best.step >= step:
            return True
        value, previous = metrics[self.monitor], best.metrics[self.monitor]
        return value > previous if self.mode == "max" else value < previous

    def _delete_old(self, directory: Path, step: int) -> None:
        """Keeps the newest up to ``step`` and the best. Later ones are of a future that this run will write again."""
        best = read_best(directory)
        older = [path for path in list_checkpoints(directory) if path <= checkpoint_path(directory, step)]
        for path in older[: -self.keep_last]:
            if best is None or path.name != best.file:
                delete_checkpoint(path)

    @staticmethod
    def _metrics(trainer: pl.Trainer) -> dict[str, float]:
        return {key: float(value) for key, value in sorted(trainer.callback_metrics.items()) if key.startswith("eval/")}

    @staticmethod
    def _directory(trainer: pl.Trainer) -> Path:
        return Path(trainer.default_root_dir) / "checkpoints"


def read_best(directory: Path) -> CheckpointRecord | None:
    """The record of the best checkpoint in ``directory``; None where none was named or it is gone."""
    try:
        pointer = json.loads((directory / "best.json").read_text())
        return read_record(directory / pointer["file"])
    except (OSError, ValueError, KeyError):
        return None
