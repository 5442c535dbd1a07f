"""A toy run under a quick watchdog, in which something goes wrong. A script: DIRECTORY SCENARIO."""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from toy_run import ToyData, ToyModule, quiet, trainer_of

from mmtrain.callback.checkpoint import Checkpoint
from mmtrain.callback.watchdog import Watchdog, blamed
from mmtrain.errors import RunError
from mmtrain.run.datamodule import DataModule

STEP = 5
BEAT_S = 0.2
LIMIT_S = 1.5


def hang_here() -> None:
    time.sleep(600)


class Trouble(pl.Callback):
    """Makes trouble at step 5, in the last rank; in a lone process everything is slow before that."""

    def __init__(self, scenario: str) -> None:
        self.scenario = scenario

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step != STEP:
            return
        if trainer.is_global_zero:
            (Path(trainer.default_root_dir) / "reached").touch()
        if trainer.global_rank != trainer.world_size - 1:
            return
        if self.scenario == "hang":
            hang_here()
        elif self.scenario == "raise":
            raise ValueError("a mistake in rank 1")
        elif self.scenario == "wait":
            time.sleep(2)

    def on_validation_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.world_size == 1:
            time.sleep(LIMIT_S / 3)  # five of them: longer than the limit in all

    def on_save_checkpoint(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.world_size == 1:
            time.sleep(2 * LIMIT_S)


def main(directory: Path, scenario: str) -> None:
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    quiet()
    watchdog = Watchdog(LIMIT_S / 60, 20 * LIMIT_S / 60, lost_minutes=3 / 60, beat_seconds=BEAT_S)
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    trainer = trainer_of(
        directory,
        max_steps=200,
        eval_every=4,
        callbacks=[watchdog, Trouble(scenario), Checkpoint(every_n_steps=4)],
        devices=world_size,
        strategy="ddp" if world_size > 1 else "auto",
    )
    with blamed(trainer):
        trainer.fit(ToyModule(0.02), datamodule=DataModule(ToyData(7)))


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), sys.argv[2])
    except RunError as error:
        sys.exit(f"error: {error}")
