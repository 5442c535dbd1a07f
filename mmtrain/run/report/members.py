"""Which runs stand in which cell of a table, and whether they may stand in one."""

from __future__ import annotations

from collections.abc import Sequence

from mmtrain.errors import RunError
from mmtrain.run.directory import config_differences
from mmtrain.run.report.cases import Case
from mmtrain.run.report.question import Question
from mmtrain.run.report.values import UnknownValueError, in_order, label_of

Row = tuple[str, ...]
Place = tuple[Row, str | None]
"""The labels of a row, and that of a column."""
Members = dict[str, list[Case]]
"""Runs by their values of what is averaged over: one for each, where all is well."""


def group(
    cases: Sequence[Case], question: Question, left_out: list[str]
) -> tuple[dict[Place, Members], list[str | None]]:
    """The runs of each cell, and the labels of the columns; None for the only one where no key makes columns.

    Args:
        cases: All runs.
        question: What makes rows and columns.
        left_out: Is told of runs that lack a key.
    """
    groups: dict[Place, Members] = {}
    for case in cases:
        try:
            row = tuple(label_of(case, key) for key in question.rows)
            col = label_of(case, question.cols) if question.cols else None
            member = ",".join(label_of(case, key) for key in question.over)
        except UnknownValueError as error:
            left_out.append(f"{case.path}: its {error} is not known, so it belongs to no cell ({case.told})")
            continue
        groups.setdefault((row, col), {}).setdefault(member, []).append(case)
    labels = in_order(col for _, col in groups if col is not None)
    return groups, list(labels) if question.cols else [None]


def refuse_mixture(members: Members, question: Question, cell: str) -> None:
    """Refuses a cell whose runs differ in what is not averaged over: their mean would be of nothing.

    Raises:
        RunError: They do, or two runs are of the same seed.
    """
    cases = [case for same in members.values() for case in same if case.evidence is not None]
    first = cases[0] if cases else None
    for other in cases[1:]:
        assert first is not None
        varied = _varied(first, other, question)
        if varied:
            lines = [f"{key}: {old} ({first.path}), {new} ({other.path})" for key, (old, new) in varied.items()]
            raise RunError(
                f"the runs of the cell {cell} differ in more than {', '.join(question.over)}:\n    "
                + "\n    ".join(lines),
                where="rows and cols",
                mend=f"add {next(iter(varied))} to --rows or --cols, choose with --where, or average with --over",
            )
    for member, same in members.items():
        if len(same) > 1:
            names = ", ".join(str(case.path) for case in same)
            raise RunError(
                f"the cell {cell} has {len(same)} runs of {', '.join(question.over)}={member}: {names}",
                where="the runs",
                mend="name the runs that are to count, one for each",
            )


def _varied(a: Case, b: Case, question: Question) -> dict[str, tuple[object, object]]:
    differences = config_differences(a.config, b.config)
    return {key: pair for key, pair in differences.items() if key not in ("name", *question.over)}
