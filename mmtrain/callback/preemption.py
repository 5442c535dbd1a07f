"""A job that is asked to go saves its state and goes, at the end of a step and on all ranks alike."""

from __future__ import annotations

import logging
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.trainer.states import TrainerFn

from mmtrain import distributed
from mmtrain.callback.alert import alert

_LOG = logging.getLogger(__name__)
_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
_SECONDS_BETWEEN_AGREEMENTS = 10.0


class Preemption(pl.Callback):
    """On SIGTERM or SIGUSR1: finishes the step, saves, writes a ``REQUEUE`` marker in ``default_root_dir``, stops.

    The handler only sets a flag, so a second signal changes nothing. An evaluation that has begun is brought to its
    end, and the training stops there. Where the grace of the scheduler is shorter than an evaluation, a step and a
    checkpoint together, ask it for more: what is not saved in time is trained again.

    Lightning's own SIGTERM handler, which broadcasts inside the handler and raises in the middle of the loop, is
    replaced for the time of the training; the handlers from before come back after it.

    Args:
        every_n_steps: Most steps between the ranks' agreements, for which the host waits for the device; fewer where
            they would take more than ten seconds. A lone process looks at its flag at every step.
    """

    def __init__(self, every_n_steps: int = 10) -> None:
        self.every_n_steps = every_n_steps
        self.requested = False
        self.stopped = False
        self._agreed_step = self._next_step = 0
        self._agreed_at = 0.0
        self._previous: dict[signal.Signals, Any] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Listens from here on: a signal while the model is built is answered after the first step."""
        if not self._previous:
            self._previous = {number: signal.getsignal(number) for number in _SIGNALS}
        self._listen()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Takes the signals back from Lightning, which registers its handlers just before."""
        self._listen()
        self._next_step = trainer.global_step + 1
        self._mark_agreement(trainer)
        # Before every batch Lightning broadcasts its own flag and reads it on the host, which waits for the device.
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Asks the other ranks, and has the trainer stop. The Checkpoint callback, which runs later, saves."""
        if trainer.global_step >= self._next_step:
            self._stop_if_asked(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stops without a further step after an evaluation in which the signal came."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._stop_if_asked(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the marker, now that the checkpoint is on disk."""
        if self.stopped and trainer.is_global_zero:
            marker = Path(trainer.default_root_dir) / "REQUEUE"
            marker.write_text(f"{trainer.global_step}\n")
            _LOG.warning("asked to stop: saved step %d and wrote %s", trainer.global_step, marker)
            text = f"It was asked to stop, and saved step {trainer.global_step} of {trainer.max_steps}."
            alert(trainer, "Preempted", text, "INFO")

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

    def _stop_if_asked(self, trainer: pl.Trainer) -> None:
        if self._any_rank_was_asked(trainer):
            self.stopped = trainer.global_step != trainer.max_steps
        if self.stopped:
            trainer.should_stop = True
            # A trainer that should stop validates first, and there may be no time: the resumed run will.
            trainer.limit_val_batches = 0

    def _any_rank_was_asked(self, trainer: pl.Trainer) -> bool:
        """One answer for all ranks, together with the step of the next agreement, which must be one for all, too."""
        if trainer.world_size == 1:
            return self.requested
        steps = max(1, trainer.global_step - self._agreed_step)
        pace = (time.monotonic() - self._agreed_at) / steps
        mine = torch.tensor([float(self.requested), pace], device=trainer.strategy.root_device)
        asked, slowest = distributed.all_reduce_max(mine).tolist()
        interval = max(1, min(self.every_n_steps, int(_SECONDS_BETWEEN_AGREEMENTS / slowest)))
        self._next_step = (trainer.global_step // interval + 1) * interval
        self._mark_agreement(trainer)
        return bool(asked)

    def _mark_agreement(self, trainer: pl.Trainer) -> None:
        self._agreed_step, self._agreed_at = trainer.global_step, time.monotonic()

    def _listen(self) -> None:
        for number in _SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
