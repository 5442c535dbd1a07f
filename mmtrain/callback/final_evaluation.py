"""The last step of a run is always evaluated."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl


class FinalEvaluation(pl.Callback):
    """Has the trainer validate after its last step, also where the interval between evaluations does not meet it."""

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """A trainer that is told to stop validates before it does."""
        if trainer.global_step == trainer.max_steps:
            trainer.should_stop = True
