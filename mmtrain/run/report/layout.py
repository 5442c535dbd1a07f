"""What a table says, before any format: headers, the texts of its cells, and the sentences that explain it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mmtrain.run.report.members import Row
from mmtrain.run.report.significance import LEVEL
from mmtrain.run.report.table import Column, Table

_DIGITS = 4
_TESTS = {
    "paired-t": "two-sided paired t-test by {over}",
    "bootstrap": "95% bootstrap interval of the mean difference by {over}, 10,000 resamples",
}


@dataclass(frozen=True)
class Shown:
    """A cell as texts.

    Attributes:
        mean: Of the runs that count; empty where there are none.
        std: Empty where there are fewer than two.
        count: ``n=2 of 3`` where runs are missing; else empty.
        best: Whether it is the best of its column.
        marked: Whether it differs significantly from what it is compared with.
    """

    mean: str
    std: str
    count: str
    best: bool
    marked: bool


@dataclass(frozen=True)
class Layout:
    """A table as texts, none of them escaped.

    Attributes:
        heads: Lines of the header over the columns, each of texts and how many columns they span.
        keys: Names of the columns of row labels.
        lines: For each row its labels and its cells; None where no run was asked for.
        caption: In one sentence.
        legend: What n, bold and marks mean.
    """

    heads: tuple[tuple[tuple[str, int], ...], ...]
    keys: tuple[str, ...]
    lines: tuple[tuple[Row, tuple[Shown | None, ...]], ...]
    caption: str
    legend: str


def lay_out(table: Table) -> Layout:
    """The texts of a table."""
    names = table.question.labels
    decimals = {metric: _decimals(table, metric) for metric in table.question.metrics}
    lines = []
    for row in table.rows:
        cells = tuple(_shown(table, row, column, decimals[column.metric]) for column in table.columns)
        lines.append((tuple(names.get(label, label) for label in row), cells))
    keys = tuple(names.get(key, key) for key in table.question.rows)
    return Layout(_heads(table), keys, tuple(lines), _caption(table), _legend(table))


def column_name(table: Table, column: Column) -> str:
    """A column's name in one line."""
    names, question = table.question.labels, table.question
    parts = []
    if column.col is not None:
        assert question.cols is not None, "a column has a value because there is a key"
        parts.append(f"{names.get(question.cols, question.cols)}={names.get(column.col, column.col)}")
    if len(question.metrics) > 1 or not parts:
        parts.append(_metric_name(table, column.metric))
    return " ".join(parts)


def _scaled(table: Table, metric: str, value: float) -> float:
    """A value in the unit that the table shows."""
    return 100 * value if metric in table.question.percent else value


def _heads(table: Table) -> tuple[tuple[tuple[str, int], ...], ...]:
    question, names = table.question, table.question.labels
    metrics = tuple((_metric_name(table, metric), 1) for metric in question.metrics)
    if question.cols is None:
        return (metrics,)
    values = list(dict.fromkeys(column.col or "" for column in table.columns))
    heads = (
        ((names.get(question.cols, question.cols), len(table.columns)),),
        tuple((names.get(value, value), len(metrics)) for value in values),
    )
    return heads if len(metrics) == 1 else (*heads, metrics * len(values))


def _metric_name(table: Table, metric: str) -> str:
    name = table.question.labels.get(metric, metric.removeprefix("eval/"))
    unit = " (%)" if metric in table.question.percent else ""
    return f"{name}{unit} {'↑' if table.modes[metric] == 'max' else '↓'}"


def _shown(table: Table, row: Row, column: Column, decimals: int) -> Shown | None:
    cell, metric = table.cells.get((row, column)), column.metric
    if cell is None:
        return None
    count = "" if cell.n == cell.asked else f"n={cell.n} of {cell.asked}"
    if not cell.n:
        return Shown("", "", count, best=False, marked=False)
    std = "" if cell.std is None else _number(_scaled(table, metric, cell.std), decimals)
    marked = cell.comparison is not None and cell.comparison.significant is True
    return Shown(_number(_scaled(table, metric, cell.mean), decimals), std, count, cell.best, marked)


def _number(value: float, decimals: int) -> str:
    if math.isnan(value):
        return "NaN"
    return ("∞" if value > 0 else "-∞") if math.isinf(value) else f"{value:.{decimals}f}"


def _decimals(table: Table, metric: str) -> int:
    """As many as show four digits of the largest mean of a metric."""
    means = [
        abs(_scaled(table, metric, cell.mean)) for (_, column), cell in table.cells.items() if column.metric == metric
    ]
    largest = max((mean for mean in means if math.isfinite(mean)), default=0.0)
    return min(8, max(0, _DIGITS - 1 - math.floor(math.log10(largest)))) if largest else _DIGITS - 1


def _caption(table: Table) -> str:
    question = table.question
    if question.caption:
        return question.caption
    metrics = ", ".join(question.labels.get(metric, metric) for metric in question.metrics)
    keys = " and ".join(question.labels.get(key, key) for key in (*question.rows, *filter(None, [question.cols])))
    return f"{metrics} by {keys}"


def _legend(table: Table) -> str:
    question = table.question
    over = " and ".join(question.over)
    asked = max((cell.asked for cell in table.cells.values()), default=0)
    many = asked > 1
    when = "last evaluation" if question.at == "last" else "best evaluation, which the run's own monitor chose"
    spread = f"Mean ± standard deviation over {over}" if many else f"One run each, of one {over},"
    short = any(cell.n != cell.asked for cell in table.cells.values())
    unless = " unless a cell says otherwise: with fewer it cannot be the best" if short else ""
    count = f", n = {asked}{unless}" if many or short else ""
    sentences = [f"{spread} at the {when}{count}.", "Bold: best of each column."]
    if many and question.test != "none" and any(cell.comparison for cell in table.cells.values()):
        sentences.append(_test_sentence(table, over))
    return " ".join(sentences)


def _test_sentence(table: Table, over: str) -> str:
    question = table.question
    compared = [cell.comparison for cell in table.cells.values() if cell.comparison is not None]
    tested = sum(comparison.significant is not None for comparison in compared)
    other = "the best of its column"
    if table.baseline is not None:
        other = f"the baseline {', '.join(question.labels.get(label, label) for label in table.baseline)}"
    test = _TESTS[question.test].format(over=over)
    level = f"p < {LEVEL}" if question.test == "paired-t" else "0 lies outside"
    if not tested:
        return f"No difference from {other} could be tested."
    told = f"*: differs from {other} ({test}, {level}; {tested} comparison{'' if tested == 1 else 's'}, not corrected)."
    untested = len(compared) - tested
    return f"{told} {untested} could not be tested." if untested else told


def comparison_lines(table: Table) -> list[dict[str, str]]:
    """What the tests found, a line for each comparison."""
    lines = []
    for (row, column), cell in table.cells.items():
        found = cell.comparison
        if found is None or table.question.test == "none":
            continue
        difference, low, high = (
            "" if value is None else f"{_scaled(table, column.metric, value):+.4g}"
            for value in (found.difference, found.low, found.high)
        )
        lines.append(
            {
                "setting": ", ".join([*row, *([column.col] if column.col else [])]),
                "metric": column.metric,
                "difference": difference,
                "95% interval": f"[{low}, {high}]" if low else "",
                "p": "" if found.p is None else f"{found.p:.3g}",
                "pairs": str(found.pairs),
                "verdict": found.reason or ("differs" if found.significant else "not shown to differ"),
            }
        )
    return lines
