"""A job that is asked to go saves its state and goes, at the end of a step and on all ranks alike."""

from __future__ import annotations

import logging
import signal
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl

from mmtrain import distributed

_LOG = logging.getLogger(__name__)
_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Preemption(pl.Callback):
    """On SIGTERM or SIGUSR1: finishes the step, saves, writes a ``REQUEUE`` marker in ``default_root_dir``, stops.

    The handler only sets a flag. Lightning's own SIGTERM handler, which broadcasts inside the handler and raises in the
    middle of the loop, is replaced for the time of the training; the handlers from before come back after it.

    Args:
        every_n_steps: Steps between the ranks' agreements. A lone process looks at its flag at every step.
    """

    def __init__(self, every_n_steps: int = 10) -> None:
        self.every_n_steps = every_n_steps
        self.requested = False
        self.stopped = False
        self._previous: dict[signal.Signals, Any] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Listens from here on: a signal while the model is built is answered after the first step."""
        if not self._previous:
            self._previous = {number: signal.getsignal(number) for number in _SIGNALS}
        self._listen()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Takes the signals back from Lightning, which registers its handlers just before."""
        self._listen()
        # Before every batch Lightning broadcasts its own flag and reads it on the host, which waits for the device.
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Asks the other ranks, and has the trainer stop. The Checkpoint callback, which runs later, saves."""
        if trainer.world_size > 1 and trainer.global_step % self.every_n_steps != 0:
            return
        if distributed.any_rank(self.requested, trainer.strategy.root_device):
            self.stopped = trainer.global_step != trainer.max_steps
            if self.stopped:
                trainer.should_stop = True
                # A trainer that should stop validates first, and there may be no time: the resumed run will.
                trainer.limit_val_batches = 0

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the marker, now that the checkpoint is on disk."""
        if self.stopped and trainer.is_global_zero:
            marker = Path(trainer.default_root_dir) / "REQUEUE"
            marker.write_text(f"{trainer.global_step}\n")
            _LOG.warning("asked to stop: saved step %d and wrote %s", trainer.global_step, marker)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Gives the signals back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Gives the signals back."""
        # Else Lightning gives back, after this, what it found when it registered: this callback's handlers.
        trainer._signal_connector.teardown()
        self.teardown(trainer, pl_module, "fit")

    def _listen(self) -> None:
        for number in _SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
