"""Moments of a run that can be told from outside, by what stands in its directory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

EVAL_EVERY = 10
_TAIL = 1 << 15


def last_row(run: Path) -> dict[str, Any]:
    """The last whole row of the record; step 0 where there is none."""
    try:
        with (run / "metrics.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - _TAIL))
            lines = file.read().split(b"\n")[:-1]
        return dict(json.loads(lines[-1])) if lines else {"step": 0}
    except (OSError, ValueError):
        return {"step": 0}


def in_evaluation(run: Path) -> bool:
    """Whether the row of a step that is evaluated stands, and the row of its evaluation does not."""
    row = last_row(run)
    return row["step"] > 0 and row["step"] % EVAL_EVERY == 0 and "train/loss" in row


def is_writing(run: Path) -> bool:
    """Whether a checkpoint stands under a name for the time of its writing."""
    return any((run / "checkpoints").glob(".step_*.unsealed"))


def is_sealing(run: Path) -> bool:
    """Whether the record that vouches for a checkpoint is being written. What follows is two renames."""
    return any((run / "checkpoints").glob(".step_*.json.partial"))


MOMENTS: dict[str, Callable[[Path], bool] | None] = {
    "start-up": None,
    "before its first row": None,
    "training": None,
    "evaluation": in_evaluation,
    "writing a checkpoint": is_writing,
    "sealing a checkpoint": is_sealing,
}
"""Whether a run is at a moment. Those with None come by the time that has passed."""
