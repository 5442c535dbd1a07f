"""What a search draws from: overrides with several values, as Optuna takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from mmtrain.errors import ConfigError, RunError
from mmtrain.run.sweep.grid import Job, parse, refuse_twice, value_text, values


@dataclass(frozen=True)
class Axis:
    """A parameter of a search.

    Attributes:
        key: With the sign before it: ``+optim.beta``.
        distribution: Optuna's. A choice is one of whole overrides.
        probes: Overrides that stand for all of it when it is checked: every choice, or both ends.
    """

    key: str
    distribution: Any
    probes: tuple[str, ...]

    def override(self, value: Any) -> str:
        """The override of a value that was drawn."""
        return str(value) if isinstance(value, str) else f"{self.key}={value_text(value)}"


def require_optuna() -> Any:
    """The package optuna.

    Raises:
        RunError: It is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise RunError("a search needs the package optuna", mend="pip install 'mmtrain[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def split_space(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """The overrides that are fixed, and those that give several values.

    Raises:
        ConfigError: One cannot be read, or all are fixed.
    """
    parsed = [parse(line) for line in overrides]
    refuse_twice(parsed)
    space = [str(override.input_line) for override in parsed if override.is_sweep_override()]
    if not space:
        raise ConfigError(
            "no override gives several values, so there is nothing to search",
            where="the command line",
            mend="'optim.lr=tag(log, interval(1e-5, 1e-3))'",
        )
    return [line for line in overrides if line not in space], space


def axes(space: Sequence[str]) -> list[Axis]:
    """The parameters of a search.

    Raises:
        ConfigError: An interval is empty, or logarithmic and not positive.
    """
    return [_axis(parse(line)) for line in space]


def probe_jobs(fixed: Sequence[str], parameters: Sequence[Axis]) -> list[Job]:
    """The fewest jobs in which every probe of every parameter occurs."""
    number = max(len(axis.probes) for axis in parameters)
    chosen = [tuple(axis.probes[index % len(axis.probes)] for axis in parameters) for index in range(number)]
    return [Job((*fixed, *varied), varied) for varied in chosen]


def _axis(override: Override) -> Axis:
    distributions = require_optuna().distributions
    swept, key = override.value(), override.get_key_element()
    try:
        if isinstance(swept, IntervalSweep):
            ends = (swept.start, swept.end)
            of_integers = all(isinstance(end, int) for end in ends)
            kind = distributions.IntDistribution if of_integers else distributions.FloatDistribution
            distribution = kind(*ends, log="log" in swept.tags)
        elif isinstance(swept, RangeSweep):
            steps = list(swept.range())
            of_integers = all(isinstance(step, int) for step in steps)
            kind = distributions.IntDistribution if of_integers else distributions.FloatDistribution
            distribution = kind(min(steps), max(steps), step=abs(swept.step), log="log" in swept.tags)
        else:
            lines = tuple(values(override))
            return Axis(key, distributions.CategoricalDistribution(lines), lines)
    except ValueError as error:
        raise ConfigError(f"cannot be searched: {error}", where=f"override {override.input_line}") from error
    probes = tuple(f"{key}={value_text(end)}" for end in (distribution.low, distribution.high))
    return Axis(key, distribution, probes)
