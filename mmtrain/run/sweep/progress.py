"""How far a run is, from its record, reading only what was added since the last look."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, Literal

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
        self._begin()

    def _begin(self) -> None:
        self.step = 0
        self.total_steps: int | None = None
        self.loss: float | None = None
        self.samples_per_second: float | None = None
        self.best: float | None = None
        self.metrics: set[str] = set()
        self._file = -1
        self._offset = 0

    def refresh(self) -> Progress:
        """Reads the rows that are new; all of them where the record was cut by a resume."""
        try:
            with self.run.metrics.open("rb") as file:
                found = self.run.metrics.stat()
                if found.st_ino != self._file or found.st_size < self._offset:
                    self._begin()
                    self._file = found.st_ino
                file.seek(self._offset)
                whole, newline, _ = file.read().rpartition(b"\n")
        except FileNotFoundError:
            self._begin()
            return self
        self._offset += len(whole) + len(newline)
        for line in whole.splitlines():
            self._add(json.loads(line))
        if self.total_steps is None:
            self.total_steps = _total_steps(self.run)
        return self

    def _add(self, row: dict[str, Any]) -> None:
        numbers = {key: float(value) for key, value in row.items() if isinstance(value, int | float | str)}
        self.step = max(self.step, int(numbers["step"]))
        self.loss = numbers.get("train/loss", self.loss)
        self.samples_per_second = numbers.get("throughput/samples_per_second", self.samples_per_second)
        self.metrics |= {key for key in numbers if key.startswith("eval/")}
        if self.metric is not None and self.metric.name in numbers:
            value = numbers[self.metric.name]
            self.best = value if self.metric.better(value, self.best) else self.best


def _total_steps(run: RunDirectory) -> int | None:
    try:
        total: int | None = read_head(run.path / NAME, {"total_steps"}).get("total_steps")
    except (OSError, ValueError):
        return None
    return total
