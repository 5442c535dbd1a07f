"""Alerts of skipped steps and of a preemption, and histograms, in W&B's file of a real training."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import toy_run
import wandb
from gloo_ranks import run_in
from wandb_file import Record, of_kind, records, segment_of

from mmtrain.callback.histograms import Histograms
from mmtrain.errors import RunError

SIZES = {"net.0.weight": 64, "net.0.bias": 8, "net.2.weight": 8, "net.2.bias": 1}


class Asked(pl.Callback):
    """A scheduler that asks the job to go at a step."""

    def on_train_batch_start(self, trainer: pl.Trainer, *arguments: Any) -> None:
        if trainer.global_step == 5:
            os.kill(os.getpid(), signal.SIGTERM)


def asked_to_go(run: Path) -> None:
    """Six steps of nine, one of them without a finite loss."""
    toy_run.train(run, max_steps=9, wandb=True, guard={}, module={"poisoned": [3]}, extra=[Histograms(2), Asked()])


def stopped_by_the_guard(run: Path) -> None:
    with pytest.raises(RunError):
        toy_run.train(run, max_steps=9, wandb=True, guard={"total_limit": 1}, module={"poisoned": [3, 4]})


def at_home(home: Path, train: Callable[[Path], None]) -> None:
    os.environ |= {"HOME": str(home), "WANDB_MODE": "offline"}
    train(home / "run")
    wandb.teardown()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Record]]:
    """What W&B recorded of each of the two trainings."""
    segments = {}
    for train in (asked_to_go, stopped_by_the_guard):
        home = tmp_path_factory.mktemp("home")
        run_in(tmp_path_factory.mktemp("ranks"), 1, at_home, (home, train))
        segments[train.__name__] = records(segment_of(home / "run"))
    return segments


def alerts(found: list[Record]) -> list[tuple[str, str, str]]:
    return [(alert["level"], alert["title"], alert["text"]) for alert in of_kind(found, "alert")]


def test_a_preempted_run_says_so_and_which_steps_it_skipped(found: dict[str, list[Record]]) -> None:
    skipped, preempted = alerts(found["asked_to_go"])
    assert skipped[:2] == ("WARN", "Steps skipped")
    assert skipped[2].startswith("1 up to step 4, 1 in all; the last: step 3, loss nan") and "samples 0/2" in skipped[2]
    assert preempted == ("INFO", "Preempted", "It was asked to stop, and saved step 6 of 9.")


def test_a_run_that_the_guard_stops_says_why(found: dict[str, list[Record]]) -> None:
    *_, last = alerts(found["stopped_by_the_guard"])
    assert last == ("ERROR", "Stopped", "2 steps were skipped, more than callback.guard.total_limit = 1")


def test_histograms_come_every_so_many_steps_of_each_parameter_and_its_gradient(found: dict[str, list[Record]]) -> None:
    counted = {
        (record["step"]["num"], key.removesuffix(".values")): sum(value)
        for record in of_kind(found["asked_to_go"], "history")
        for key, value in record["item"].items()
        if key.startswith("histogram/") and key.endswith(".values")
    }
    expected = {
        (step, f"histogram/{kind}/{name}"): size
        for step in (2, 4, 6)
        for kind in ("gradient", "parameter")
        for name, size in SIZES.items()
    }
    assert counted == expected
