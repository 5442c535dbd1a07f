"""One progress bar for the whole run; plain lines where the output is not a terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import Tensor

from mmtrain.callback.recorder import is_log_step


class RunProgress(ProgressBar):
    """Shows the run's steps, epoch, loss, samples per second and time left; an evaluation has its own line.

    The loss is read when a row is recorded, and not at every step.

    Args:
        global_batch_size: Samples in a step, over all ranks.
        line_every_percent: How often a line is written where the output is not a terminal.
        console: Where to write; None for standard output.
    """

    def __init__(self, global_batch_size: int, line_every_percent: float = 5.0, console: Console | None = None) -> None:
        super().__init__()
        self.global_batch_size = global_batch_size
        self.line_every_percent = line_every_percent
        self._console = console
        self._enabled = True
        self._bar: Progress | None = None
        self._training = TaskID(0)
        self._evaluation: TaskID | None = None
        self._first_step = 0
        self._started_at = 0.0
        self._loss = float("nan")

    def disable(self) -> None:
        """Called by the trainer on every rank but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Called by the trainer on the first rank."""
        self._enabled = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begins where the run was resumed."""
        if not self._enabled:
            return
        self._console = self._console or Console()
        self._first_step, self._started_at = trainer.global_step, time.monotonic()
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[state]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._bar.start()
            self._training = self._bar.add_task(
                "train", total=trainer.max_steps, completed=trainer.global_step, state=self._state(trainer)
            )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Moves the bar, or writes a line where a share of the run has passed."""
        if not self._enabled:
            return
        step = trainer.global_step
        line = self._bar is None and self._line_due(step, trainer.max_steps)
        if line or is_log_step(trainer, step):
            self._loss = _loss(outputs)
        if self._bar is not None:
            self._bar.update(self._training, completed=step, state=self._state(trainer))
        elif line:
            self._write(f"step {step}/{trainer.max_steps}  {self._state(trainer)}")

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Opens the evaluation's line."""
        if self._bar is not None:
            total = sum(trainer.num_val_batches)
            self._evaluation = self._bar.add_task("evaluate", total=total, state="")

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Moves the evaluation's line."""
        if self._bar is not None and self._evaluation is not None:
            self._bar.advance(self._evaluation)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Closes the evaluation's line, and writes its metrics."""
        if not self._enabled or trainer.sanity_checking:
            return
        if self._bar is not None and self._evaluation is not None:
            self._bar.remove_task(self._evaluation)
            self._evaluation = None
        metrics = {key: float(value) for key, value in trainer.callback_metrics.items() if key.startswith("eval/")}
        self._write(f"step {trainer.global_step}  " + "  ".join(f"{k} {v:.4g}" for k, v in sorted(metrics.items())))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Closes the bar."""
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Closes the bar, so that the error stands on a clean line."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _write(self, line: str) -> None:
        assert self._console is not None
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _line_due(self, step: int, total: int) -> bool:
        def passed(count: int) -> int:
            return int(100 * count / total / self.line_every_percent)

        return step == self._first_step + 1 or step == total or passed(step) > passed(step - 1)

    def _state(self, trainer: pl.Trainer) -> str:
        step = trainer.global_step
        seconds = time.monotonic() - self._started_at
        speed = (step - self._first_step) * self.global_batch_size / seconds if seconds > 0 else 0.0
        return f"epoch {step / trainer.num_training_batches:.2f}  loss {self._loss:.4f}  {speed:.0f} samples/s"


def _loss(outputs: Any) -> float:
    loss = outputs["loss"] if isinstance(outputs, Mapping) else outputs
    return float(loss) if isinstance(loss, Tensor) else float("nan")
