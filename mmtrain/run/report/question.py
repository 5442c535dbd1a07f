"""What a table is asked to show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mmtrain.run.report.metric import At
from mmtrain.run.report.significance import Test
from mmtrain.run.sweep.progress import Mode


@dataclass(frozen=True)
class Question:
    """What a table shows.

    Attributes:
        rows: Config keys; a row for each combination of their values.
        metrics: A column, or a group of columns, for each.
        cols: Config key; a column for each of its values. None: none.
        mode: Direction of every metric, or one for each; empty where the runs tell it.
        baseline: Label of the row that the others are compared with; None: the best of each column.
        test: See `compare_by_seed`.
        at: Which evaluation counts.
        over: Config keys whose values are averaged over.
        where: Only runs with these values, by config key.
        percent: Metrics that are shown times 100.
        labels: What keys, values and metrics are called.
        caption: Of the table; empty for one made of the question.
    """

    rows: tuple[str, ...]
    metrics: tuple[str, ...]
    cols: str | None = None
    mode: tuple[Mode, ...] = ()
    baseline: str | None = None
    test: Test = "paired-t"
    at: At = "last"
    over: tuple[str, ...] = ("seed",)
    where: Mapping[str, str] = field(default_factory=dict)
    percent: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    caption: str = ""
