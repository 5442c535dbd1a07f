"""A table of means over seeds: which runs stand in which cell, and what is not counted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from mmtrain.errors import ConfigError
from mmtrain.run.report.cases import Case, Cases
from mmtrain.run.report.members import Members, Row, group, refuse_mixture
from mmtrain.run.report.metric import mode_of, require_metrics, value_of
from mmtrain.run.report.origins import origin_notes
from mmtrain.run.report.question import Question
from mmtrain.run.report.significance import Comparison, Test, compare_by_seed
from mmtrain.run.report.values import chosen, find_label, in_order, require_keys
from mmtrain.run.sweep.progress import Mode

_NAMED = 3  # runs of a common problem


@dataclass(frozen=True)
class Column:
    """A column: a value of the key of columns, if there is one, and a metric."""

    col: str | None
    metric: str


@dataclass(frozen=True)
class Cell:
    """The runs of a setting, and what they come to.

    Attributes:
        values: Of the runs that count, by their values of the keys averaged over.
        asked: Runs that the fullest cell was asked to have: those that count, run, failed, or wait.
        best: Whether it has the best mean of its column. One with fewer runs than another cannot.
        comparison: With the baseline, or the best; None of itself, and where there is none.
    """

    values: Mapping[str, float]
    asked: int
    best: bool = False
    comparison: Comparison | None = None

    @property
    def n(self) -> int:
        """Runs that count."""
        return len(self.values)

    @property
    def mean(self) -> float:
        """Their mean; NaN where there are none."""
        return sum(self.values.values()) / self.n if self.n else math.nan

    @property
    def std(self) -> float | None:
        """Their sample standard deviation (n - 1); None of fewer than two."""
        if self.n < 2:
            return None
        return math.sqrt(sum((value - self.mean) ** 2 for value in self.values.values()) / (self.n - 1))


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        question: What was asked.
        rows: Labels of the rows.
        columns: Its columns.
        cells: Those that any run belongs to.
        modes: Direction of each metric.
        baseline: The row that the others are compared with; None: the best of each column.
        left_out: Runs and values that do not count, and why.
        notes: What else is to be known.
    """

    question: Question
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    cells: Mapping[tuple[Row, Column], Cell]
    modes: Mapping[str, Mode]
    baseline: Row | None
    left_out: tuple[str, ...]
    notes: tuple[str, ...]


def build_table(found: Cases, question: Question) -> Table:
    """Answers a question.

    Raises:
        UserError: A key, value or metric that no run has; runs of one cell that differ in more than what is averaged
            over, or twice the same.
    """
    cases = chosen(found.cases, question.where)
    require_keys(cases, [*question.rows, *([question.cols] if question.cols else []), *question.over], "rows and cols")
    require_metrics(cases, question.metrics)
    modes = _modes(cases, question)
    left_out = [f"{case.path}: {case.told}" for case in cases if not case.done]
    groups, columns_of = group(cases, question, left_out)
    for (row, col), members in groups.items():
        refuse_mixture(members, question, ", ".join([*row, *([col] if col else [])]))
    asked = max((len(members) for members in groups.values()), default=0)
    rows = _in_order([row for row, _ in groups])
    columns = tuple(Column(col, metric) for col in columns_of for metric in question.metrics)
    cells: dict[tuple[Row, Column], Cell] = {}
    for (row, col), members in groups.items():
        for metric in question.metrics:
            cells[row, Column(col, metric)] = _cell(members, metric, asked, question, left_out)
    baseline = _baseline(question, rows) if question.baseline is not None else None
    for column in columns:
        _compare(cells, column, rows, modes[column.metric], baseline, question.test)
    notes = [*found.notes, *_notes(cells, rows, columns, cases, question)]
    return Table(question, rows, columns, cells, modes, baseline, tuple(left_out), tuple(notes))


def _modes(cases: Sequence[Case], question: Question) -> dict[str, Mode]:
    if not question.mode:
        return {metric: mode_of(cases, metric) for metric in question.metrics}
    given = question.mode * len(question.metrics) if len(question.mode) == 1 else question.mode
    if len(given) != len(question.metrics):
        raise ConfigError(
            f"{len(question.metrics)} metrics and {len(given)} modes", where="mode", mend="one for all, or one for each"
        )
    return dict(zip(question.metrics, given, strict=True))


def _cell(members: Members, metric: str, asked: int, question: Question, left_out: list[str]) -> Cell:
    values = {}
    for member, (case,) in sorted(members.items()):
        if not case.done:
            continue
        assert case.evidence is not None, "a run that is done was begun"
        value = value_of(case.evidence, metric, question.at)
        if value is None:
            reason = "it has no best evaluation with it" if question.at == "best" else "it never recorded it"
            left_out.append(f"{case.path}: no {metric}: {reason}")
            continue
        values[member] = value
    return Cell(values, asked)


def _compare(
    cells: dict[tuple[Row, Column], Cell],
    column: Column,
    rows: Sequence[Row],
    mode: Mode,
    baseline: Row | None,
    test: Test,
) -> None:
    """Finds the best of a column, and compares each other cell with it or the baseline."""
    filled = {row: cells[row, column] for row in rows if (row, column) in cells and cells[row, column].n}
    most = max((cell.n for cell in filled.values()), default=0)
    finite = {row: cell.mean for row, cell in filled.items() if cell.n == most and math.isfinite(cell.mean)}
    best = (max if mode == "max" else min)(finite.values(), default=None)
    reference = baseline or next((row for row, mean in finite.items() if mean == best), None)
    for row, cell in filled.items():
        comparison = None
        if row != reference and reference in filled:
            comparison = compare_by_seed(cell.values, filled[reference].values, test)
        is_best = len(filled) > 1 and finite.get(row, math.nan) == best
        cells[row, column] = replace(cell, best=is_best, comparison=comparison)


def _baseline(question: Question, rows: Sequence[Row]) -> Row:
    assert question.baseline is not None
    named = {",".join(row): row for row in rows}
    return named[find_label(question.baseline.replace(", ", ","), list(named), "baseline")]


def _notes(
    cells: Mapping[tuple[Row, Column], Cell],
    rows: Sequence[Row],
    columns: Sequence[Column],
    cases: Sequence[Case],
    question: Question,
) -> list[str]:
    notes = []
    for column in columns:
        empty = [", ".join(row) for row in rows if (row, column) not in cells]
        if empty and column.metric == question.metrics[0]:
            notes.append(f"no run was asked for: {'; '.join(empty)} with {question.cols} {column.col}")
        for row in rows:
            cell = cells.get((row, column))
            if cell is not None and any(not math.isfinite(value) for value in cell.values.values()):
                seeds = ", ".join(member for member, value in cell.values.items() if not math.isfinite(value))
                where = ", ".join([*row, *([column.col] if column.col else [])])
                notes.append(f"{where}: {column.metric} is not finite with {', '.join(question.over)} {seeds}")
    problems: dict[str, list[str]] = {}
    for case in cases:
        for problem in case.problems:
            problems.setdefault(problem, []).append(str(case.path))
    for problem, runs in problems.items():
        more = f" and {len(runs) - _NAMED} more runs" if len(runs) > _NAMED else ""
        notes.append(f"{', '.join(runs[:_NAMED])}{more}: {problem}")
    return [*notes, *origin_notes([case for case in cases if case.done])]


def _in_order(rows: Iterable[Row]) -> tuple[Row, ...]:
    """Rows by their first key, then the second, each in its own order."""
    distinct = list(dict.fromkeys(rows))
    ranks = [{label: rank for rank, label in enumerate(in_order(column))} for column in zip(*distinct, strict=True)]
    return tuple(sorted(distinct, key=lambda row: [rank[label] for rank, label in zip(ranks, row, strict=True)]))
