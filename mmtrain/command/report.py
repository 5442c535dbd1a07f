"""``python -m mmtrain report``: from runs to the tables and figures of a paper."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from mmtrain.errors import ConfigError, did_you_mean
from mmtrain.run.report.formats import Format, render
from mmtrain.run.report.metric import At
from mmtrain.run.report.paper import Paper, paper_of, read_paper
from mmtrain.run.report.question import Question
from mmtrain.run.report.significance import Test
from mmtrain.run.report.write import Report
from mmtrain.run.sweep.progress import Mode

_OF_A_TABLE = ("rows", "cols", "metric", "mode", "baseline", "test", "at", "over", "where", "percent", "caption")


def report(argv: Sequence[str]) -> None:
    """Prints tables, and writes them with figures and a page where ``--out`` says.

    Raises:
        UserError: A key, value, metric or run that is not there; runs that no mean can be taken of.
    """
    arguments = _parser().parse_args(argv)
    built = Report(_paper(arguments))
    for name, table in built.tables.items():
        sys.stdout.write(render(table, arguments.format, name))
        if arguments.format == "csv":
            for line in (*table.left_out, *table.notes):
                print(line, file=sys.stderr)
    if arguments.out is not None:
        built.write(arguments.out, arguments.samples, lambda path: print(f"wrote {path}", file=sys.stderr))


def _paper(arguments: argparse.Namespace) -> Paper:
    roots = tuple(arguments.runs)
    if arguments.spec is not None:
        given = [name for name in _OF_A_TABLE if getattr(arguments, name)]
        if given:
            raise ConfigError(
                f"--{given[0]} beside --spec", where="the command line", mend=f"write it in {arguments.spec}"
            )
        return read_paper(arguments.spec, roots)
    for name, value, example in (
        ("runs", roots, "sweeps/clip_emoji"),
        ("--rows", arguments.rows, "--rows optim.lr"),
        ("--metric", arguments.metric, "--metric eval/new_style/top1"),
    ):
        if not value:
            raise ConfigError(f"report needs {name}", where="the command line", mend=f"{example}, or --spec paper.yaml")
    return paper_of(roots, _question(arguments))


def _question(arguments: argparse.Namespace) -> Question:
    modes = _choices("--mode", arguments.mode, get_args(Mode))
    (test,) = _choices("--test", arguments.test or "paired-t", get_args(Test))
    (at,) = _choices("--at", arguments.at or "last", get_args(At))
    metrics = tuple(arguments.metric.split(","))
    where = {}
    for text in arguments.where:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ConfigError(f"{text!r} is no condition", where="--where", mend="--where optim.lr=3e-4")
        where[key] = value
    return Question(
        rows=tuple(arguments.rows.split(",")),
        metrics=metrics,
        cols=arguments.cols,
        mode=modes,
        baseline=arguments.baseline,
        test=test,
        at=at,
        over=tuple((arguments.over or "seed").split(",")),
        where=where,
        percent=metrics if arguments.percent else (),
        caption=arguments.caption or "",
    )


def _choices(option: str, text: str | None, known: Sequence[str]) -> tuple[Any, ...]:
    chosen = text.split(",") if text else []
    for name in chosen:
        if name not in known:
            raise ConfigError(f"there is no {name!r}", where=option, mend=did_you_mean(name, known))
    return tuple(chosen)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m mmtrain report",
        description="Tables of means and deviations over seeds, with n, the best in bold, and tests; learning curves.",
        epilog="Only runs that are done count; the others are named. With --out: tables as Markdown, LaTeX and CSV,"
        " curves as SVG and PNG, and index.html, one page that needs nothing else. docs/report.md tells more.",
        allow_abbrev=False,
    )
    parser.add_argument("runs", type=Path, nargs="*", metavar="RUNS_OR_SWEEP", help="runs, directories of them, sweeps")
    parser.add_argument("--rows", metavar="KEY,...", help="config keys: a row for each combination of values")
    parser.add_argument("--cols", metavar="KEY", help="config key: a column for each value")
    parser.add_argument("--metric", metavar="NAME,...", help="eval/SET/METRIC")
    parser.add_argument("--mode", metavar="max|min,...", help="which is better (of the runs' own monitor: known)")
    parser.add_argument("--baseline", metavar="VALUE", help="row that the others are tested against (the best one)")
    parser.add_argument("--test", metavar="NAME", help=f"one of {', '.join(get_args(Test))} (paired-t)")
    parser.add_argument("--at", metavar="last|best", help="evaluation that counts: last, or best by the run's monitor")
    parser.add_argument("--over", metavar="KEY,...", help="config keys that are averaged over (seed)")
    parser.add_argument("--where", metavar="KEY=VALUE", action="append", default=[], help="only these runs")
    parser.add_argument("--percent", action="store_true", help="metrics times 100")
    parser.add_argument("--caption", metavar="TEXT", help="of the table")
    parser.add_argument("--format", choices=get_args(Format), default="md", help="what is printed (md)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write files there")
    parser.add_argument("--samples", type=int, default=12, metavar="N", help="pictures of runs on the page (12)")
    parser.add_argument("--spec", type=Path, metavar="paper.yaml", help="several tables and figures")
    return parser
