"""``python -m mmtrain resume RUN``: go on with a run, with no other word of its config."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mmtrain.command.train import train_composed
from mmtrain.config import compose, validate
from mmtrain.run.origin import read_origin


def resume(run: str, overrides: Sequence[str]) -> None:
    """Trains on in ``run`` from its newest checkpoint.

    Args:
        run: Run directory.
        overrides: Values that may change on the way: devices, workers, strategy, loggers, micro-batch size.

    Raises:
        RunError: ``run`` is no run directory, or an override would change the trajectory.
    """
    origin = read_origin(Path(run))
    composed = compose([*origin.overrides, *overrides], extra_dirs=origin.config_dirs)
    composed = replace(composed, config={**composed.config, "run": {"dir": run, "fresh": False}})
    validate(composed)
    train_composed(composed, origin)
