"""When a signal stops a training: after an evaluation that has begun, and soon where steps are slow."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import toy_run
from gloo_ranks import RunRanks
from toy_run import differences

from mmtrain import distributed
from mmtrain.callback import preemption
from mmtrain.callback.checkpoint_io import latest_checkpoint


class Signaller(pl.Callback):
    """Sends signals to this process, on one rank, at a step or in the evaluation after it."""

    def __init__(self, step: int, *numbers: signal.Signals, rank: int = 0, evaluating: bool = False) -> None:
        self.step, self.numbers, self.rank, self.evaluating = step, numbers, rank, evaluating

    def on_train_batch_start(self, trainer: pl.Trainer, *arguments: Any) -> None:
        if not self.evaluating and trainer.global_step == self.step:
            self._send(trainer)

    def on_validation_batch_start(self, trainer: pl.Trainer, *arguments: Any) -> None:
        if self.evaluating and trainer.global_step == self.step:
            self._send(trainer)

    def _send(self, trainer: pl.Trainer) -> None:
        if trainer.global_rank == self.rank:
            for number in self.numbers:
                os.kill(os.getpid(), number)


def last(directory: Path) -> dict[str, Any]:
    path = latest_checkpoint(directory / "checkpoints")
    assert path is not None
    state: dict[str, Any] = torch.load(path, weights_only=True)
    return state


def test_a_signal_during_an_evaluation_stops_at_its_end_and_it_is_not_repeated(tmp_path: Path) -> None:
    stopped, whole = tmp_path / "stopped", tmp_path / "whole"
    options: dict[str, Any] = {"max_steps": 9, "eval_every": 3, "save_every": None}
    first, _ = toy_run.train(stopped, **options, extra=[Signaller(3, signal.SIGUSR1, evaluating=True)])
    assert (stopped / "REQUEUE").read_text() == "3\n"
    assert (len(first.seen), first.validated) == (3, [3]), "no step after the evaluation, which is complete"
    second, _ = toy_run.train(stopped, **options)
    assert second.validated == [6, 9]
    toy_run.train(whole, **options)
    assert not differences(last(stopped), last(whole))
    assert toy_run.rows_of(stopped) == toy_run.rows_of(whole)


def test_a_second_signal_changes_nothing(tmp_path: Path) -> None:
    twice = Signaller(4, signal.SIGTERM, signal.SIGUSR1, signal.SIGTERM)
    toy_run.train(tmp_path, max_steps=9, extra=[twice])
    assert (tmp_path / "REQUEUE").read_text() == "5\n"
    assert last(tmp_path)["global_step"] == 5


def steps_until_stopped(directory: Path) -> int:
    rank = str(distributed.rank())
    os.environ |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "test"}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
    preemption._SECONDS_BETWEEN_AGREEMENTS = 0.01
    toy_run.quiet()
    rarely = preemption.Preemption(every_n_steps=1000)
    signaller = Signaller(5, signal.SIGTERM, rank=1)
    trainer = toy_run.trainer_of(
        directory, max_steps=40, eval_every=None, callbacks=[signaller, rarely], devices=2, strategy="ddp"
    )
    trainer.fit(toy_run.ToyModule(0.02), datamodule=toy_run.DataModule(toy_run.ToyData(8)))
    return trainer.global_step


@pytest.mark.slow
def test_ranks_that_step_slowly_agree_at_every_step(run_ranks: RunRanks, tmp_path: Path) -> None:
    assert run_ranks(2, steps_until_stopped, tmp_path) == [6, 6]
