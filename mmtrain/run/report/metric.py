"""The value of a metric in a run, and whether larger is better."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from mmtrain.errors import ConfigError, did_you_mean, nearest
from mmtrain.run.evidence import Evidence
from mmtrain.run.report.cases import Case
from mmtrain.run.sweep.progress import Mode

At = Literal["last", "best"]
"""Which evaluation counts: the last one, or the one that the run itself holds for its best."""


def value_of(run: Evidence, metric: str, at: At) -> float | None:
    """A metric of a run; None where it was not recorded, or no evaluation is the best."""
    if at == "best":
        return run.listed.best_metrics.get(metric)
    for row in reversed(run.rows):
        if metric in row:
            return float(row[metric])
    return None


def require_metrics(cases: Iterable[Case], metrics: Sequence[str]) -> None:
    """Refuses a metric that no run recorded.

    Raises:
        ConfigError: With the nearest one.
    """
    known = {name for case in cases if case.evidence for row in case.evidence.rows for name in row} - {"step"}
    for metric in metrics:
        if known and metric not in known:
            evaluated = {name for name in known if name.startswith("eval/")}
            mend = did_you_mean(metric, known if nearest(metric, known) else evaluated or known)
            raise ConfigError(f"no run recorded the metric {metric!r}", where="metric", mend=mend)


def mode_of(cases: Iterable[Case], metric: str) -> Mode:
    """The direction of a metric that the runs name as what their best checkpoint is chosen by.

    Raises:
        ConfigError: They name another, or disagree: what is better is not guessed from a name.
    """
    modes: set[Mode] = set()
    for case in cases:
        checkpoint = (case.config.get("callback") or {}).get("checkpoint") or {}
        if checkpoint.get("monitor") == metric:
            modes.add(checkpoint.get("mode", "max"))
    if len(modes) != 1:
        raise ConfigError(
            f"whether a larger or a smaller {metric} is better is not known", where="metric", mend="--mode max, or min"
        )
    return modes.pop()
