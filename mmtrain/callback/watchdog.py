"""A job that hangs or has lost a rank ends itself, and says why, in minutes."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.trainer.states import TrainerFn

from mmtrain.callback import stacks
from mmtrain.callback.board import Cause, open_board
from mmtrain.callback.children import first_death, take_over
from mmtrain.callback.heartbeat import Heart, ranges
from mmtrain.callback.pulse import Patience, Pulse
from mmtrain.callback.watch import EXIT_STATUS, Watch, is_broken_connection
from mmtrain.errors import ConfigError, RunError

_DEATH_SHOWS_S = 2.0


class Watchdog(pl.Callback):
    """Ends a training that hangs, and one of which a rank is gone, with one message for the whole job.

    Every hook notes what begins, which costs one assignment. A thread looks at that note: if nothing has begun for too
    long, and no rank behind this one is still within its time, every rank writes its stacks to ``stacks/rank_N.txt``
    in ``default_root_dir``, rank 0 says where each rank stood, and all processes end with status 1. A second thread
    tells the other ranks, through the store of the process group, that this one lives: one that is silent is gone. A
    child of this process that dies is noticed at once. Under gloo the other ranks then get an error anyway; under NCCL
    they would hang until the collectives' own time is out.

    While it trains, ``kill -USR2 PID`` prints a process's stacks to its standard error.

    Args:
        timeout_minutes: How long a training step, the wait for a batch, or a batch of an evaluation may take.
        slow_timeout_minutes: The same for what may be long: the start, the first batches, which may be compiled, the
            end of an evaluation, and a checkpoint. Keep it below ``strategy.timeout_minutes``.
        lost_minutes: How long a rank may be silent. A hang does not make it silent.
        beat_seconds: Between two signs of life.

    Raises:
        ConfigError: A time is not above zero, or they contradict one another.
    """

    def __init__(
        self,
        timeout_minutes: float = 10.0,
        slow_timeout_minutes: float = 25.0,
        lost_minutes: float = 2.0,
        beat_seconds: float = 5.0,
    ) -> None:
        if not 0 < timeout_minutes <= slow_timeout_minutes:
            raise ConfigError(
                f"timeout_minutes={timeout_minutes} and slow_timeout_minutes={slow_timeout_minutes}",
                where="callback.watchdog",
                mend="set both above zero, and the slow one not below the other",
            )
        if not 0 < 3 * beat_seconds <= 60 * lost_minutes:
            raise ConfigError(
                f"beat_seconds={beat_seconds} and lost_minutes={lost_minutes}",
                where="callback.watchdog",
                mend="set both above zero, and lost_minutes to three beats or more",
            )
        self.cause: Cause | None = None
        self.error: RunError | None = None
        self._limit = 60 * timeout_minutes
        self._slow_limit = 60 * slow_timeout_minutes
        self._patience = Patience(beat_seconds, 60 * lost_minutes)
        self._heart = Heart(socket.gethostname(), self._slow_limit)
        self._pulse: Pulse | None = None
        self._watch: Watch | None = None
        self._step = 0
        self._warm = self._evaluation_warm = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Starts to watch, now that the ranks are joined."""
        if stage != "fit":
            return
        self._heart = Heart(socket.gethostname(), self._slow_limit)
        folder = Path(trainer.default_root_dir) / "stacks"
        if trainer.is_global_zero:
            (folder / "told").unlink(missing_ok=True)
        stacks.listen()
        board = open_board()
        self._pulse = Pulse(board, self._heart, self._patience) if board is not None else None
        self._watch = Watch(self._heart, self._pulse, take_over(trainer), folder, trainer.global_rank, self._patience)
        if self._pulse is not None:
            self._pulse.start()
        self._watch.start()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The loaders come next."""
        self._step = trainer.global_step
        self._heart.mark("waiting for the first batch", self._step + 1, self._slow_limit)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """The step comes next."""
        self._step += 1
        self._heart.mark("in the training step", self._step, self._limit if self._warm else self._slow_limit)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The next batch is waited for."""
        self._warm = True
        self._heart.mark("waiting for the next batch", self._step, self._limit)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """An evaluation begins, which may encode classes first."""
        self._heart.mark("starting an evaluation", self._step, self._slow_limit)

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """A batch is evaluated."""
        limit = self._limit if self._evaluation_warm else self._slow_limit
        self._heart.mark("evaluating a batch", self._step, limit)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """The next batch of the evaluation is waited for."""
        self._evaluation_warm = True
        self._heart.mark("waiting for a batch of the evaluation", self._step, self._limit)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Metrics over the whole set come next."""
        self._heart.mark("ending an evaluation", self._step, self._slow_limit)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Training goes on, after what other callbacks do with the result."""
        self._heart.mark("after an evaluation", self._step, self._slow_limit)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """A checkpoint is written next."""
        self._heart.mark("saving a checkpoint", self._step, self._slow_limit)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The last checkpoint, and loggers that upload."""
        self._heart.mark("ending the training", self._step, self._slow_limit)
        if self._pulse is not None:
            self._pulse.part()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Finds out whether another rank is to blame, and tells the others where this one is."""
        if self._watch is not None and isinstance(exception, Exception) and trainer.state.fn == TrainerFn.FITTING:
            self.cause = self._watch.follows_from(exception)
            self.error = self._watch.tell(self.cause) if self.cause is not None else None
        if self.cause is None:
            self.close()  # else what Lightning closes next may hang, and is watched

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Ends the watch."""
        self.close()

    def close(self) -> None:
        """Ends the watch, and gives the signal back."""
        if self._watch is None:
            return
        self._watch.stop()
        if self._pulse is not None:
            self._pulse.stop()
        stacks.cease()
        self._watch = self._pulse = None


@contextmanager
def blamed(trainer: pl.Trainer) -> Iterator[None]:
    """Replaces an error that only follows from another rank's end by the word of who ended, on one rank.

    Raises:
        RunError: A rank is gone, or the job hangs, and this rank tells it.
        SystemExit: Another one does.
    """
    try:
        yield
    except Exception as error:
        for callback in trainer.callbacks:  # type: ignore[attr-defined]  # set by its callback connector
            if isinstance(callback, Watchdog) and callback.cause is not None:
                callback.close()
                raise callback.error or SystemExit(EXIT_STATUS) from error
        if is_broken_connection(error) and (death := _death_of_a_child(trainer)) is not None:
            raise death from error
        raise


def _death_of_a_child(trainer: pl.Trainer) -> RunError | None:
    """The end of a rank that this process started, where a connection broke before anything was watched."""
    children, deadline = take_over(trainer), time.monotonic() + _DEATH_SHOWS_S
    while (death := first_death(children)) is None and children and time.monotonic() < deadline:
        time.sleep(0.02)
    if death is None:
        return None
    return RunError(
        f"{ranges(death.ranks)} is gone: {death.reason}",
        where="the start of the ranks",
        mend="look for the out-of-memory killer (dmesg); the same command goes on from the last checkpoint",
    )
