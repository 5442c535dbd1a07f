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

    places = Table.grid(padding=(0, 2))
    places.add_row("run", Text(str(run.path), overflow="fold"))
    places.add_row("metrics", Text(str(run.metrics), overflow="fold"))
    if step < total_steps:
        places.add_row("go on", Text(command, overflow="fold"))
    segments = sorted(run.wandb.glob("offline-run-*")) if run.wandb.is_dir() else []
    if segments:
        # The newest segment repeats all rows before it.
        places.add_row("look", Text(f"wandb leet {next(segments[-1].glob('*.wandb'), segments[-1])}", overflow="fold"))
        places.add_row("upload", Text(f"wandb sync {segments[-1]}", overflow="fold"))
    return Group(table, places) if metrics else places


def evaluation_summary(checkpoint: Path, place: Path, metrics: Mapping[str, float]) -> RenderableType:
    """A table of an evaluation's metrics, and where its record and pictures lie."""
    places = Table.grid(padding=(0, 2))
    places.add_row("checkpoint", Text(str(checkpoint), overflow="fold"))
    places.add_row("results", Text(str(place), overflow="fold"))
    return Group(_metrics_table(checkpoint.parent.parent.name, metrics), places)


def _metrics_table(title: str, metrics: Mapping[str, float]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, value in metrics.items():
        table.add_row(name, f"{value:.4g}")
    return table
