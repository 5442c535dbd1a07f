"""How far a run is, from its record, reading only what was added since the last look."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from mmtrain.logger.rows import Row, Tail
from mmtrain.run.directory import RunDirectory
from mmtrain.run.manifest_file import NAME, read_head

Mode = Literal["max", "min"]


@dataclass(frozen=True)
class Metric:
    """An evaluation metric, and whether the largest or the smallest is the best."""

    name: str
    mode: Mode

    def better(self, value: float, than: float | None) -> bool:
        """Whether a value is better than another; NaN is better than nothing."""
        if math.isnan(value) or than is None:
            return not math.isnan(value)
        return value > than if self.mode == "max" else value < than


class Progress:
    """The newest figures of a run.

    Args:
        run: Its directory, which may not exist yet.
        metric: Whose best value to keep; None for none.

    Attributes:
        step: Optimizer steps recorded.
        total_steps: Steps of the whole run; None before it has said.
        loss: The newest training loss.
        samples_per_second: The newest speed.
        best: The best value of the metric.
        metrics: The names of all evaluation metrics.
    """

    def __init__(self, run: RunDirectory, metric: Metric | None = None) -> None:
        self.run = run
        self.metric = metric
        self._tail = Tail(run.metrics)
        self._begin()

    def _begin(self) -> None:
        self.step = 0
        self.total_steps: int | None = None
        self.loss: float | None = None
        self.samples_per_second: float | None = None
        self.best: float | None = None
        self.metrics: set[str] = set()

    def refresh(self) -> Progress:
        """Reads the rows that are new; all of them where the record was cut by a resume."""
        rows, cut = self._tail.read()
        if cut:
            self._begin()
        for row in rows:
            self._add(row)
        if self.total_steps is None:
            self.total_steps = _total_steps(self.run)
        return self

    def _add(self, row: Row) -> None:
        self.step = max(self.step, row["step"])
        self.loss = row.get("train/loss", self.loss)
        self.samples_per_second = row.get("throughput/samples_per_second", self.samples_per_second)
        self.metrics |= {key for key in row if key.startswith("eval/")}
        if self.metric is not None and self.metric.name in row:
            value = row[self.metric.name]
            self.best = value if self.metric.better(value, self.best) else self.best


def _total_steps(run: RunDirectory) -> int | None:
    try:
        total: int | None = read_head(run.path / NAME, {"total_steps"}).get("total_steps")
    except (OSError, ValueError):
        return None
    return total
