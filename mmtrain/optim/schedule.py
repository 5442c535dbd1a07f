"""Learning-rate schedules: pure functions of the step."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

from mmtrain.errors import ConfigError


class Schedule(ABC):
    """Linear warmup, then a decay over the rest of the run.

    Args:
        warmup_steps: Steps of warmup.
        warmup_fraction: The same, as a share of all steps. At most one of the two is set; none warms up not at all.
        final_fraction: Learning rate at the end of the run, as a share of the peak.

    Raises:
        ConfigError: Both forms of the warmup are set, or the fraction is none.
    """

    def __init__(
        self,
        *,
        warmup_steps: int | None = None,
        warmup_fraction: float | None = None,
        final_fraction: float = 0.0,
    ) -> None:
        if warmup_steps is not None and warmup_fraction is not None:
            raise ConfigError(
                f"warmup_steps={warmup_steps} and warmup_fraction={warmup_fraction} are both set",
                where="optim.schedule",
                mend="set one of them to null",
            )
        if warmup_fraction is not None and not 0 <= warmup_fraction <= 1:
            raise ConfigError(
                f"warmup_fraction={warmup_fraction} is no share of a run",
                where="optim.schedule",
                mend="set a number from 0 to 1, or warmup_steps",
            )
        self.warmup_steps = warmup_steps
        self.warmup_fraction = warmup_fraction
        self.final_fraction = final_fraction

    def warmup(self, total_steps: int) -> int:
        """Steps of warmup in a run of ``total_steps``."""
        if self.warmup_fraction is not None:
            return round(self.warmup_fraction * total_steps)
        return self.warmup_steps or 0

    def factor(self, step: int, total_steps: int) -> float:
        """Learning rate of ``step`` (from 0) in a run of ``total_steps``, as a share of the peak."""
        warmup = self.warmup(total_steps)
        if step < warmup:
            return (step + 1) / warmup
        progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
        return self.final_fraction + (1 - self.final_fraction) * self.decay(progress)

    @abstractmethod
    def decay(self, progress: float) -> float:
        """Falls from 1 to 0 while ``progress`` grows from 0 to 1."""


class Cosine(Schedule):
    """Half a cosine (Loshchilov and Hutter 2017, arXiv:1608.03983, without restarts)."""

    def decay(self, progress: float) -> float:
        """``(1 + cos(pi p)) / 2``."""
        return 0.5 * (1 + math.cos(math.pi * progress))


class Linear(Schedule):
    """A straight line (BERT)."""

    def decay(self, progress: float) -> float:
        """``1 - p``."""
        return 1 - progress


class Constant(Schedule):
    """The peak from the end of the warmup on; ``final_fraction`` has no effect."""

    def decay(self, progress: float) -> float:
        """1."""
        return 1.0
