"""Learning curves: mean and standard deviation over seeds, step by step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mmtrain.errors import ConfigError
from mmtrain.run.report.cases import Case, Cases
from mmtrain.run.report.metric import require_metrics
from mmtrain.run.report.values import UnknownValueError, chosen, in_order, label_of, require_keys

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class FigureQuestion:
    """What a figure shows.

    Attributes:
        metric: Any name in ``metrics.jsonl``.
        lines: Config keys; a curve for each combination of their values.
        over: Config keys whose values are averaged over.
        where: Only runs with these values, by config key.
        x: ``step``, or a name that the same rows record: ``samples``, ``epoch``.
        log_y: Whether the y axis is logarithmic.
        labels: What keys, values and metrics are called.
        caption: Title of the figure; empty for the metric's name.
    """

    metric: str
    lines: tuple[str, ...]
    over: tuple[str, ...] = ("seed",)
    where: Mapping[str, str] = field(default_factory=dict)
    x: str = "step"
    log_y: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    caption: str = ""


@dataclass(frozen=True)
class Curve:
    """The runs of a setting.

    Attributes:
        label: What tells it from the others.
        x: Where all runs that are done have a value.
        mean: Of these runs.
        std: Sample standard deviation; zeros of one run.
        n: How many they are.
        unfinished: Curves of the runs that are not done: drawn alone, and in no mean.
    """

    label: str
    x: Array
    mean: Array
    std: Array
    n: int
    unfinished: tuple[tuple[Array, Array], ...]


@dataclass(frozen=True)
class Figure:
    """Curves, and what is to be known of them."""

    question: FigureQuestion
    curves: tuple[Curve, ...]
    notes: tuple[str, ...]

    @property
    def title(self) -> str:
        """Its caption, or the metric's name."""
        question = self.question
        return question.caption or question.labels.get(question.metric, question.metric)


def build_figure(found: Cases, question: FigureQuestion) -> Figure:
    """Collects the curves of a figure.

    Raises:
        UserError: A key, value or metric that no run has.
    """
    cases = chosen(found.cases, question.where)
    require_keys(cases, question.lines, "lines")
    require_metrics(cases, [question.metric])
    groups: dict[tuple[str, ...], list[Case]] = {}
    for case in cases:
        try:
            groups.setdefault(tuple(label_of(case, key) for key in question.lines), []).append(case)
        except UnknownValueError:
            continue  # tables tell it
    order = {label: rank for rank, label in enumerate(in_order(label for labels in groups for label in labels))}
    curves, notes = [], []
    for labels in sorted(groups, key=lambda labels: [order[label] for label in labels]):
        label = ", ".join(question.labels.get(text, text) for text in labels)
        curve, told = _curve(label, groups[labels], question)
        notes += told
        if curve.n or curve.unfinished:
            curves.append(curve)
    if not curves:
        raise ConfigError(f"no run has {question.metric} with {question.x} in one row", where="x", mend="x: step")
    return Figure(question, tuple(curves), tuple(notes))


def _curve(label: str, cases: Sequence[Case], question: FigureQuestion) -> tuple[Curve, list[str]]:
    notes = []
    whole: list[dict[float, float]] = []
    unfinished = []
    for case in cases:
        series = _series(case, question)
        if not series:
            if case.done:
                notes.append(f"{case.path}: no {question.metric}: it is in no curve")
            continue
        if case.done:
            whole.append(series)
        else:
            unfinished.append((np.array(list(series)), np.array(list(series.values()))))
    if len(whole) < len(cases):
        notes.append(f"{label}: mean of {len(whole)} of {len(cases)} runs; the others are not done, or lack the metric")
    common = sorted(set.intersection(*map(set, whole))) if whole else []
    lost = len(set().union(*whole)) - len(common)
    if lost:
        notes.append(f"{label}: {lost} points that not all runs have are left out")
    values = np.array([[series[x] for x in common] for series in whole]).reshape(len(whole), len(common))
    with np.errstate(invalid="ignore"):  # the mean with an infinity is one, and its deviation no number
        mean = values.mean(axis=0) if whole else np.empty(0)
        std = values.std(axis=0, ddof=1) if len(whole) > 1 else np.zeros(len(common))
    return Curve(label, np.array(common, float), mean, std, len(whole), tuple(unfinished)), notes


def _series(case: Case, question: FigureQuestion) -> dict[float, float]:
    rows: Iterable[Mapping[str, float]] = case.evidence.rows if case.evidence is not None else ()
    return {row[question.x]: row[question.metric] for row in rows if question.metric in row and question.x in row}
