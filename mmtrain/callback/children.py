"""Ranks that Lightning started as children of this process."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from mmtrain.callback.board import Cause

Processes = Mapping[int, "subprocess.Popen[Any]"]
"""Processes by rank."""


def take_over(trainer: pl.Trainer) -> Processes:
    """The children of this process, from here on watched by the caller alone.

    Lightning's observer would kill this process without a word, up to five seconds after one of them died.
    """
    launcher = trainer.strategy.launcher
    if not isinstance(launcher, _SubprocessScriptLauncher):
        return {}
    processes = list(launcher.procs)
    launcher.procs.clear()  # the observer holds this very list; with nothing in it, it ends
    launcher.procs = processes
    return {trainer.global_rank + 1 + number: process for number, process in enumerate(processes)}


def first_death(processes: Processes) -> Cause | None:
    """The cause of the end of the first child that has ended badly."""
    for rank, process in processes.items():
        code = process.poll()
        if code:
            if code > 0:
                return Cause("failed", (rank,), f"rank {rank} (process {process.pid}) ended with status {code}")
            name = signal.Signals(-code).name
            return Cause("lost", (rank,), f"process {process.pid} was killed by {name}")
    return None
