"""``python -m mmtrain runs``: what runs there are, how far they are, and how good."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import Any

from mmtrain.errors import ConfigError, did_you_mean
from mmtrain.run.dotted import flatten, has, value_at
from mmtrain.run.listing import ListedRun, list_runs
from mmtrain.run.state import STATES, RunState

_COLOURS = {"running": 36, "done": 32, "preempted": 33, "failed": 31, "killed": 31, "unknown": 35}
_FIELDS: dict[str, Callable[[ListedRun], Any]] = {
    "run": lambda run: str(run.path),
    "state": lambda run: run.state,
    "step": lambda run: run.step,
    "speed": lambda run: run.speed,
    "loss": lambda run: run.loss,
    "best": lambda run: run.best,
    "started": lambda run: run.started_at,
    "host": lambda run: run.host,
}
_Where = tuple[str, str]


def runs(argv: list[str]) -> None:
    """Lists runs, one a line.

    Raises:
        UserError: There is no such directory, or a state, key or metric that no run knows.
    """
    arguments = _parser().parse_args(argv)
    states, where = _states(arguments.state), [_where(text) for text in arguments.where]
    found = list(list_runs(arguments.root or [Path("runs")], with_config=bool(where)))
    _refuse_unknown_keys(found, where)
    chosen = [run for run in found if run.state in states and all(_matches(run, condition) for condition in where)]
    if arguments.sort is not None:
        chosen = _sorted(chosen, arguments.sort, reverse=arguments.reverse)
    elif arguments.reverse:
        chosen.reverse()
    if arguments.json:
        json.dump([_plain(run) for run in chosen], sys.stdout, indent=1)
        print()
    else:
        _print(chosen, len(found), arguments.sort)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m mmtrain runs",
        description="Lists the runs below some directories, sweeps included.",
        epilog=f"STATE is one of {', '.join(STATES)}. KEY of --sort is one of {', '.join(_FIELDS)}, or a metric, whose"
        " value at the best evaluation counts where the run has one.",
    )
    parser.add_argument("root", type=Path, nargs="*", metavar="ROOT", help="directory of runs, or a run (runs)")
    parser.add_argument("--state", metavar="STATE,...", help="only runs in one of these states")
    parser.add_argument(
        "--where", metavar="KEY=VALUE", action="append", default=[], help="only runs with this value in their config"
    )
    parser.add_argument("--sort", metavar="KEY", help="the smallest first (default: in the order of paths)")
    parser.add_argument("--reverse", action="store_true", help="the other way round")
    parser.add_argument("--json", action="store_true", help="everything known, as a JSON list")
    return parser


def _states(text: str | None) -> frozenset[RunState]:
    if text is None:
        return frozenset(STATES)
    wanted = text.split(",")
    for name in wanted:
        if name not in STATES:
            raise ConfigError(f"there is no state {name!r}", where="--state", mend=did_you_mean(name, STATES))
    return frozenset(state for state in STATES if state in wanted)


def _where(text: str) -> _Where:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"{text!r} is no condition", where="--where", mend="--where optim.lr=3e-4")
    return key, value


def _refuse_unknown_keys(found: Sequence[ListedRun], where: Sequence[_Where]) -> None:
    configs = [run.config for run in found if run.config]
    for key, _ in where:
        if configs and not any(has(config, key) for config in configs):
            known = {name for config in configs for name in flatten(config)}
            raise ConfigError(f"no run's config has the key {key!r}", where="--where", mend=did_you_mean(key, known))


def _matches(run: ListedRun, condition: _Where) -> bool:
    key, text = condition
    if not has(run.config, key):
        return False
    value = value_at(run.config, key)
    if isinstance(value, bool) or value is None:
        return text.lower() == ("null" if value is None else str(value).lower())
    if isinstance(value, int | float):
        try:
            return float(text) == value
        except ValueError:
            return False
    return text == (value if isinstance(value, str) else json.dumps(value))


def _sorted(found: Sequence[ListedRun], key: str, *, reverse: bool) -> list[ListedRun]:
    """By a field or a metric, runs without a value first."""
    metrics = {name for run in found for name in (*run.final, *run.best_metrics)}
    if key not in _FIELDS and key not in metrics and found:
        mend = did_you_mean(key, [*_FIELDS, *metrics])
        raise ConfigError(f"there is nothing to sort by under {key!r}", where="--sort", mend=mend)
    value = _FIELDS.get(key, lambda run: run.metric(key))

    def rank(run: ListedRun) -> tuple[bool, Any]:
        found = value(run)
        known = found is not None and not (isinstance(found, float) and math.isnan(found))
        return known, found if known else 0

    return sorted(found, key=rank, reverse=reverse)


def _plain(run: ListedRun) -> dict[str, Any]:
    values = {entry.name: getattr(run, entry.name) for entry in fields(run) if entry.name != "config"}
    return values | {"path": str(run.path)}


def _print(chosen: Sequence[ListedRun], count: int, sort: str | None) -> None:
    shown = sort if sort is not None and sort not in _FIELDS else None
    header = ("run", "state", "step", "samples/s", "loss", shown or "best", "started", "host")
    table = [header, *(_cells(run, shown) for run in chosen)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    coloured = sys.stdout.isatty()
    lines = []
    for number, row in enumerate(table):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        if coloured and number:
            cells[1] = f"\033[{_COLOURS[row[1]]}m{cells[1]}\033[0m"
        lines.append("  ".join(cells).rstrip())
    chosen_of = f"{len(chosen)} of {count} runs" if len(chosen) != count else f"{count} runs"
    print("\n".join([*lines, chosen_of] if chosen else [chosen_of]))


def _cells(run: ListedRun, metric: str | None) -> tuple[str, ...]:
    name = run.monitor if metric is None else metric
    value = run.best if metric is None else run.metric(metric)
    best = "" if value is None else f"{value:.4g}" if metric else f"{value:.4g} {name}"
    step = "" if run.step is None else f"{run.step}/{'?' if run.total_steps is None else run.total_steps}"
    return str(run.path), run.state, step, _number(run.speed), _number(run.loss), best, _when(run), run.host or ""


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _when(run: ListedRun) -> str:
    return "" if run.started_at is None else f"{datetime.fromisoformat(run.started_at).astimezone():%Y-%m-%d %H:%M}"
