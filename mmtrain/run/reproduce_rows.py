"""Rows of metrics against those that were recorded before, one after the other, up to the first difference."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mmtrain.logger.rows import Row

Values = Mapping[str, float]

_OF_CLOCKS = "throughput/"
"""Keys that begin so are measured by clocks; all others follow from the config, the data and the code."""


@dataclass(frozen=True)
class Deviation:
    """A step at which the rows differ.

    Attributes:
        step: Steps completed.
        values: The differing metrics, as ``{"a": THEN, "b": NOW}``; a side that has no such metric is left out.
    """

    step: int
    values: dict[str, dict[str, float]]


class RowComparison:
    """Compares a record that comes in with one that is there.

    Args:
        expected: The recorded metrics, by step.
        tolerance: How far a value may be from the recorded one, as a share of that, or in its own unit where that is
            below one; None for not a bit.
        open_end: Whether the record may have been cut off within its last step.

    Attributes:
        steps: Steps that were the same so far.
        values: Values that were.
        largest: The largest deviation that was tolerated, as ``tolerance`` counts.
    """

    def __init__(self, expected: Mapping[int, Values], tolerance: float | None, open_end: bool) -> None:
        self._expected = expected
        self._order = sorted(expected)
        self._tolerance = tolerance
        self._open_step = self._order[-1] if open_end else None
        self._seen: set[str] = set()
        self.steps = 0
        self.values = 0
        self.largest = 0.0

    @property
    def is_complete(self) -> bool:
        """Whether all that was recorded was seen again."""
        return self.steps == len(self._order)

    def take(self, row: Row) -> Deviation | None:
        """Compares a row. Those of a step come one after the other; rows of steps that were not recorded are passed."""
        step = row["step"]
        while not self.is_complete and self._order[self.steps] < step:
            if (missing := self._end_step()) is not None:
                return missing
        if self.is_complete or self._order[self.steps] != step:
            return None
        expected, differing = self._expected[step], {}
        for name, value in measured(row).items():
            if name not in expected:
                if step != self._open_step:
                    differing[name] = {"b": value}
            elif self._is_same(expected[name], value):
                self._seen.add(name)
            else:
                differing[name] = {"a": expected[name], "b": value}
        if differing:
            return Deviation(step, differing)
        if self._order[-1] == step and self._seen == expected.keys():
            return self._end_step()
        return None

    def end(self) -> Deviation | None:
        """What of the record did not come again, now that nothing comes any more."""
        return None if self.is_complete else self._end_step()

    def _end_step(self) -> Deviation | None:
        step = self._order[self.steps]
        expected = self._expected[step]
        if missing := expected.keys() - self._seen:
            return Deviation(step, {name: {"a": expected[name]} for name in expected if name in missing})
        self.steps += 1
        self.values += len(self._seen)
        self._seen = set()
        return None

    def _is_same(self, then: float, now: float) -> bool:
        if _bits(then) == _bits(now) or (math.isnan(then) and math.isnan(now)):
            return True
        if self._tolerance is None:
            return False
        deviation = abs(now - then) / max(1.0, abs(then)) if then != now else 0.0
        if not deviation <= self._tolerance:
            return False
        self.largest = max(self.largest, deviation)
        return True


def by_step(rows: Iterable[Row]) -> dict[int, dict[str, float]]:
    """What is compared of some rows, by step."""
    found: dict[int, dict[str, float]] = {}
    for row in rows:
        if values := measured(row):
            found.setdefault(row["step"], {}).update(values)
    return found


def measured(row: Row) -> dict[str, float]:
    """The metrics of a row that no clock had a part in."""
    return {name: value for name, value in row.items() if name != "step" and not name.startswith(_OF_CLOCKS)}


def _bits(value: float) -> bytes:
    return struct.pack("d", value)
