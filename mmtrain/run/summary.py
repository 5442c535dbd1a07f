"""What a finished run says of itself on the console."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mmtrain.run.directory import RunDirectory


def run_summary(
    run: RunDirectory, metrics: Mapping[str, float], *, step: int, total_steps: int, command: str
) -> RenderableType:
    """A table of metrics, and where the run lies, how to go on with it, and how to look at it.

    Args:
        run: The run's directory.
        metrics: Name to value, in the order to show.
        step: Steps completed.
        total_steps: Steps planned.
        command: The command line that goes on with this run.
    """
    table = _metrics_table(f"{run.path.name}: step {step} of {total_steps}", metrics)

    places = {"run": str(run.path), "metrics": str(run.metrics)}
    if run.media.is_dir():
        places["pictures"] = str(run.media)
    if step < total_steps:
        places["go on"] = command
    segments = sorted(run.wandb.glob("offline-run-*")) if run.wandb.is_dir() else []
    if segments:
        # The newest segment repeats all rows before it.
        places["look"] = f"wandb leet {next(segments[-1].glob('*.wandb'), segments[-1])}"
        places["upload"] = f"wandb sync {segments[-1]}"
    return Group(table, _lines(places)) if metrics else _lines(places)


def evaluation_summary(checkpoint: Path, place: Path, metrics: Mapping[str, float]) -> RenderableType:
    """A table of an evaluation's metrics, and where its record and pictures lie."""
    places = {"checkpoint": str(checkpoint), "results": str(place)}
    return Group(_metrics_table(checkpoint.parent.parent.name, metrics), _lines(places))


def _lines(places: Mapping[str, str]) -> Text:
    """Aligned lines that no console folds, so that a command can be copied."""
    width = max(map(len, places)) + 2
    lines = "\n".join(f"{name:<{width}}{value}" for name, value in places.items())
    return Text(lines, no_wrap=True, overflow="ignore")


def _metrics_table(title: str, metrics: Mapping[str, float]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, value in metrics.items():
        table.add_row(name, f"{value:.4g}")
    return table
