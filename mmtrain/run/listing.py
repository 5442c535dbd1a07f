"""The runs below some directories, each in one line: read from the heads of manifests and the tails of metrics.

Loads neither PyTorch nor a YAML file: ten thousand runs are listed in about a second.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmtrain.errors import RunError
from mmtrain.logger.rows import number
from mmtrain.run.manifest_file import NAME, SCHEMA, read_head
from mmtrain.run.state import RunState, state_of

_HEAD = frozenset({"schema", "total_steps", "segments", "best", "final"})
_TAIL_BYTES = 1 << 16
_LOSS, _SPEED = "train/loss", "throughput/samples_per_second"


@dataclass(frozen=True)
class ListedRun:
    """A run in a list.

    Attributes:
        path: Its directory.
        state: See `RunState`.
        step: Steps completed; of a run that trains or was killed, up to its last row of metrics.
        total_steps: Steps of the whole run; None where they are not known.
        speed: Samples per second, last recorded.
        loss: Training loss, last recorded.
        monitor: The metric that decides which evaluation is best; None where none does.
        best: Its best value so far.
        best_step: The step of that value.
        started_at: Start of its newest segment, UTC, ISO 8601.
        ended_at: End of it; None where it was not recorded.
        host: Machine of the newest segment.
        reason: Why that segment ended.
        final: Last value of each metric.
        best_metrics: Metrics of the best evaluation.
        config: The config, where it was asked for.
    """

    path: Path
    state: RunState
    step: int | None = None
    total_steps: int | None = None
    speed: float | None = None
    loss: float | None = None
    monitor: str | None = None
    best: float | None = None
    best_step: int | None = None
    started_at: str | None = None
    ended_at: str | None = None
    host: str | None = None
    reason: str | None = None
    final: dict[str, float] = field(default_factory=dict)
    best_metrics: dict[str, float] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)

    def metric(self, name: str) -> float | None:
        """A metric at the best evaluation, or its last value where no evaluation is known as the best."""
        return self.best_metrics.get(name, self.final.get(name))


@dataclass(frozen=True)
class _Progress:
    """How far a run is: the step, the last value of each metric, the best evaluation as in the manifest."""

    step: int | None
    final: dict[str, Any]
    best: dict[str, Any] | None


def list_runs(roots: Sequence[Path], *, with_config: bool = False) -> Iterator[ListedRun]:
    """Every run below ``roots``, in the order of their paths.

    Args:
        roots: Directories of runs, in which sweeps may be nested; or runs.
        with_config: Whether `ListedRun.config` is filled.

    Raises:
        RunError: A root is no directory.
    """
    for root in roots:
        if not root.is_dir():
            raise RunError("there is no such directory", where=str(root), mend="name a directory of runs")
        for path, names in _find(str(root)):
            yield _listed(path, names, with_config)


def read_listed(run: Path) -> ListedRun:
    """One run, by its directory."""
    return _listed(str(run), set(os.listdir(run)), with_config=False)


def _find(folder: str) -> Iterator[tuple[str, set[str]]]:
    """Directories of runs with the names in them. Nothing below a run is looked at, and links are not followed."""
    try:
        with os.scandir(folder) as found:
            entries = list(found)
    except PermissionError:
        return
    names = {entry.name for entry in entries}
    if "origin.json" in names or {"config.yaml", "metrics.jsonl"} <= names:
        yield folder, names
        return
    for entry in sorted(entries, key=lambda entry: entry.name):
        if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False):
            yield from _find(entry.path)


def _listed(path: str, names: Collection[str], with_config: bool) -> ListedRun:
    run = Path(path)
    head = _read_head(f"{path}/{NAME}", with_config) if NAME in names else {}
    segments = head.get("segments") or []
    newest = segments[-1] if segments else {}
    state = state_of(run, names, segments)
    progress = _Progress(newest.get("to_step"), head.get("final") or {}, head.get("best"))
    if not newest.get("reason") or newest.get("to_step") is None:
        progress = _read_progress(run)
    final, best = _numbers(progress.final), progress.best or {}
    best_metrics, monitor = _numbers(best.get("metrics", {})), best.get("monitor")
    return ListedRun(
        path=run,
        state=state,
        step=progress.step,
        total_steps=head.get("total_steps"),
        speed=final.get(_SPEED),
        loss=final.get(_LOSS),
        monitor=monitor,
        best=best_metrics.get(monitor) if monitor else None,
        best_step=best.get("step"),
        started_at=newest.get("started_at"),
        ended_at=newest.get("ended_at"),
        host=newest.get("host"),
        reason=newest.get("reason"),
        final=final,
        best_metrics=best_metrics,
        config=head.get("config", {}),
    )


def _read_head(path: str, with_config: bool) -> dict[str, Any]:
    try:
        head = read_head(Path(path), _HEAD | {"config"} if with_config else _HEAD)
    except (OSError, ValueError):
        return {}
    return head if head.get("schema") == SCHEMA else {}


def _read_progress(run: Path) -> _Progress:
    """What the record of a run that did not end by itself says, from its last rows."""
    step: int | None = None
    final: dict[str, Any] = {}
    for line in reversed(_last_lines(run / "metrics.jsonl")):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        step = row.pop("step", None) if step is None else step
        final = row | final
        if _LOSS in final and _SPEED in final and any(name.startswith("eval/") for name in final):
            break
    return _Progress(step, final, _read_best(run / "checkpoints"))


def _last_lines(path: Path) -> list[bytes]:
    """The lines of a file's end, the first of which may have lost its beginning."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            lines = file.read().split(b"\n")
    except OSError:
        return []
    return lines[:-1]


def _read_best(checkpoints: Path) -> dict[str, Any] | None:
    try:
        pointer = json.loads((checkpoints / "best.json").read_bytes())
        record = json.loads((checkpoints / pointer["file"]).with_suffix(".json").read_bytes())
        return {"monitor": pointer["monitor"], "step": pointer["step"], "metrics": record["metrics"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _numbers(metrics: dict[str, Any]) -> dict[str, float]:
    read = {name: number(value) for name, value in metrics.items()}
    return {name: value for name, value in read.items() if isinstance(value, int | float)}
