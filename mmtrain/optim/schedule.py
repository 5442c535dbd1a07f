"""Learning-rate schedules: pure functions of the step."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal

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

    def decay_start(self, total_steps: int) -> int:
        """First step of the decay in a run of ``total_steps``."""
        return self.warmup(total_steps)

    def factor(self, step: int, total_steps: int) -> float:
        """Learning rate of ``step`` (from 0) in a run of ``total_steps``, as a share of the peak."""
        warmup = self.warmup(total_steps)
        if step < warmup:
            return (step + 1) / warmup
        start = self.decay_start(total_steps)
        progress = min(1.0, max(0, step - start) / max(1, total_steps - start))
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


class WarmupStableDecay(Schedule):
    """The peak for most of the run, then a short decay (Hu et al. 2024, arXiv:2404.06395, section 4).

    One run at the peak serves budgets of any length: a decay from any of its checkpoints replaces a run of its own.

    Args:
        decay_fraction: Steps of the decay, as a share of all steps.
        shape: ``sqrt`` is ``1 - sqrt(p)``, the better one in Hägele et al. 2024 (arXiv:2405.18392, section 3.2).
        warmup_steps: See `Schedule`.
        warmup_fraction: See `Schedule`.
        final_fraction: See `Schedule`.

    Raises:
        ConfigError: The decay is no share of a run, or overlaps the warmup.
    """

    def __init__(
        self,
        *,
        decay_fraction: float = 0.2,
        shape: Literal["linear", "sqrt"] = "sqrt",
        warmup_steps: int | None = None,
        warmup_fraction: float | None = None,
        final_fraction: float = 0.0,
    ) -> None:
        super().__init__(warmup_steps=warmup_steps, warmup_fraction=warmup_fraction, final_fraction=final_fraction)
        if not 0 < decay_fraction <= 1 - (warmup_fraction or 0):
            raise ConfigError(
                f"decay_fraction={decay_fraction} is no share of what the warmup leaves of a run",
                where="optim.schedule",
                mend=f"set a number above 0, up to {1 - (warmup_fraction or 0):g}",
            )
        self.decay_fraction = decay_fraction
        self.shape = shape

    def decay_start(self, total_steps: int) -> int:
        """The first of the last ``decay_fraction`` of all steps, and not before the end of the warmup."""
        return max(self.warmup(total_steps), total_steps - round(self.decay_fraction * total_steps))

    def decay(self, progress: float) -> float:
        """``1 - p`` or ``1 - sqrt(p)``."""
        return 1 - (math.sqrt(progress) if self.shape == "sqrt" else progress)
