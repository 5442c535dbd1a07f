"""What a rank is at, and since when: written by the training, read by a thread that watches it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Position:
    """Where a rank stands.

    Attributes:
        marks: Signs of progress since the start; ranks do the same things in the same order, so fewer is behind.
        phase: What it is doing, in words.
        step: The training step that it is at, from 1.
        seconds: Since when, on the rank's own monotonic clock.
        limit: Seconds that this may take.
        host: Its node.
    """

    marks: int
    phase: str
    step: int
    seconds: float
    limit: float
    host: str

    @property
    def expired(self) -> bool:
        """Whether it takes longer than it may."""
        return self.seconds > self.limit

    def __str__(self) -> str:
        return f"{self.phase} (step {self.step}) for {span(self.seconds)}"


class Heart:
    """The last sign of progress. A mark replaces one tuple, so that a reader in another thread sees a whole one.

    Args:
        host: This node.
        limit: Seconds that the start may take.
    """

    def __init__(self, host: str, limit: float) -> None:
        self._host = host
        self._last = (0, "starting", 0, limit, time.monotonic())

    def mark(self, phase: str, step: int, limit: float) -> None:
        """Notes that ``phase`` begins, which may take ``limit`` seconds."""
        self._last = (self._last[0] + 1, phase, step, limit, time.monotonic())

    def position(self) -> Position:
        """What was marked last, and how long ago."""
        marks, phase, step, limit, since = self._last
        return Position(marks, phase, step, time.monotonic() - since, limit, self._host)


def table(positions: Iterable[Position | None]) -> str:
    """A line for each group of ranks that stand alike; those behind the others are marked."""
    groups: dict[tuple[int, str], list[int]] = {}
    first: dict[tuple[int, str], str] = {}
    for rank, position in enumerate(positions):
        key = (position.marks, position.phase) if position is not None else (-1, "unknown")
        groups.setdefault(key, []).append(rank)
        first.setdefault(key, str(position) if position is not None else "unknown")
    furthest = max(groups, default=(0, ""))[0]
    lines = []
    for key in sorted(groups):
        behind = "  <- not arrived where the others wait" if key[0] < furthest else ""
        lines.append(f"    {ranges(groups[key])}: {first[key]}{behind}")
    return "\n".join(lines)


def ranges(ranks: Iterable[int]) -> str:
    """``rank 3``, or ``ranks 0-2, 5``."""
    runs: list[list[int]] = []
    for rank in sorted(ranks):
        if runs and rank == runs[-1][1] + 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    text = ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)
    return f"rank {text}" if len(runs) == 1 and runs[0][0] == runs[0][1] else f"ranks {text}"


def span(seconds: float) -> str:
    """``12 s`` or ``3.4 min``."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
