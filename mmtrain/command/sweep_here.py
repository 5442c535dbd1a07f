"""A sweep run on this machine under a live table, and the table at its end."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence

import torch
from rich.console import Console
from rich.live import Live

from mmtrain.command.interrupt import terminated_as_interrupted
from mmtrain.run.sweep.local import Pool, require_share
from mmtrain.run.sweep.plan import Element, Sweep
from mmtrain.run.sweep.search import drawn
from mmtrain.run.sweep.state import State, Status, counts, outputs, statuses
from mmtrain.run.sweep.table import SweepTable, brief

_REFRESH_SECONDS = 0.5
_GRACE_SECONDS = 120.0  # to finish a step and save


def run_here(planned: Sweep, missing: Sequence[int], jobs: int, command: str) -> int:
    """Runs jobs of a sweep in processes of their own.

    Ctrl-C and SIGTERM have all of them save and go; a second one kills them.

    Args:
        planned: The sweep.
        missing: Indices of the jobs to run.
        jobs: Jobs at a time.
        command: The command line that goes on with the sweep.

    Returns:
        0 if all of them are done, else 1.

    Raises:
        ConfigError: There are too few GPUs for as many jobs at a time.
    """
    elements = planned.elements()
    trainer, gpus = planned.base_config()["trainer"], _gpus()
    require_share(trainer["devices"], gpus if trainer["accelerator"] != "cpu" else [], jobs)
    pool = Pool(planned, [element for element in elements if element.index in missing], jobs, gpus)
    with terminated_as_interrupted():
        try:
            _watch(planned, elements, pool)
        except KeyboardInterrupt:
            print(f"stopping {len(pool.running)} jobs: they save and go; Ctrl-C again kills them", flush=True)
            try:
                pool.stop(_GRACE_SECONDS)
            finally:
                pool.kill()
            print(f"go on: {command}", flush=True)
            raise
        finally:
            pool.kill()
    found = _with_exits(statuses(planned, elements), pool)
    print_table(planned, elements, found)
    if any(found[index].state != State.DONE for index in missing):
        print(f"go on: {command}")
        return 1
    return 0


def print_table(planned: Sweep, elements: Sequence[Element], found: dict[int, Status]) -> None:
    """Prints what became of the jobs, in full why some failed, and which is the best."""
    console, table = Console(), SweepTable(planned, elements)
    console.print(table.render(found, console.width if console.is_terminal else None), soft_wrap=True)
    for element in elements:
        if found[element.index].state == State.FAILED:
            print(f"failed: {element.name}: {found[element.index].note}")
            if (output := outputs(planned, element)) is not None:
                print(f"  said: {output}")
    if (best := table.best()) is not None and table.metric is not None:
        element, value = best
        values = brief(drawn(planned, element.index) or element.varied)
        print(f"best {table.metric.name}: {value:.4g} by {planned.run(element).path} ({values})")


def _watch(planned: Sweep, elements: Sequence[Element], pool: Pool) -> None:
    """Runs the pool to its end under a live table, or, where the output is no terminal, a line for each change."""
    console, table = Console(), SweepTable(planned, elements)
    seen: dict[int, State] = {}
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while pool.busy:
            pool.step()
            found = _live(statuses(planned, elements), pool)
            if console.is_terminal:
                live.update(table.render(found, console.width, most=max(1, console.height - 3)), refresh=True)
            else:
                _say_changes(elements, found, seen)
            time.sleep(_REFRESH_SECONDS)


def _live(found: dict[int, Status], pool: Pool) -> dict[int, Status]:
    """As the run directories say, but for jobs whose processes are on their way there, or have just left."""
    for element, _ in pool.running.values():
        status = found[element.index]
        if status.state != State.DONE:
            found[element.index] = Status(State.RUNNING, "" if status.state == State.RUNNING else "starting")
    return _with_exits(found, pool)


def _with_exits(found: dict[int, Status], pool: Pool) -> dict[int, Status]:
    """A job that died without having left a directory, or a word, failed all the same."""
    for index, code in pool.ended.items():
        if code != 0 and found[index].state == State.WAITING:
            how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with status {code}"
            found[index] = Status(State.FAILED, f"it ended {how}")
    return found


def _say_changes(elements: Sequence[Element], found: dict[int, Status], seen: dict[int, State]) -> None:
    for element in elements:
        status = found[element.index]
        before = seen.setdefault(element.index, status.state if status.state != State.RUNNING else State.WAITING)
        if status.state != before:
            seen[element.index] = status.state
            note = f": {status.note}" if status.state == State.FAILED else ""
            print(f"{status.state}: {element.name}{note} ({counts(found.values())})", flush=True)


def _gpus() -> list[str]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [str(index) for index in range(torch.cuda.device_count())]
    return [name for name in visible.split(",") if name]
