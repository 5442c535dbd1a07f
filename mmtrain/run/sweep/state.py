"""What became of each job, read from its run directory: there is no second record that could say otherwise."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from mmtrain.run.lock import Holder, read_holder
from mmtrain.run.manifest_file import NAME, read_head
from mmtrain.run.process import is_alive
from mmtrain.run.state import RunState, run_state
from mmtrain.run.sweep.plan import Element, Sweep

_TAIL_BYTES = 1 << 16
_ERROR = re.compile(r"error: |(?:\w+\.)*\w*(?:Error|Exception|Interrupt|Exit)\b|Fatal Python error: ")
_SLURM_ERROR = re.compile(r"(?:srun|slurmstepd): error: ")  # of a job that could not say it: it had no memory left
_WHERE = "  where: "  # mmtrain.errors.UserError
_QUEUED_AGAIN = ": queued again, to go on in "  # slurm/requeue.sh


class State(StrEnum):
    """What a job may be."""

    WAITING = "waiting"
    RUNNING = "running"
    PREEMPTED = "preempted"
    FAILED = "failed"
    DONE = "done"


@dataclass(frozen=True)
class Status:
    """A job's state, and what is to be said of it: who runs it, why it failed."""

    state: State
    note: str = ""

    @property
    def is_missing(self) -> bool:
        """Whether the job is neither done nor on its way."""
        return self.state in (State.WAITING, State.FAILED, State.PREEMPTED)


def status(sweep: Sweep, element: Element, queued: Mapping[int, str] | None = None) -> Status:
    """The state of a job.

    A run whose directory was begun, that nobody holds, and that left no marker has failed, if only by being killed. So
    has one whose last words are an error that came before it opened its directory.

    Args:
        sweep: The sweep.
        element: A job of it.
        queued: By index, what to say of the tasks that SLURM holds.
    """
    run = sweep.run(element)
    found: RunState | None = run_state(run.path) if run.path.is_dir() else None
    if found == "done":
        return Status(State.DONE)
    if found == "running":
        return Status(State.RUNNING, _told(read_holder(run.path)))
    if found == "unknown" and (holder := _holder_without_locks(run.path)) is not None:
        return Status(State.RUNNING, f"{_told(holder)}; if that is down, delete {run.path / 'lock'}")
    task = (queued or {}).get(element.index)
    error = None if task else said_error(outputs(sweep, element), after=run.path / NAME)
    if found == "preempted" and error is None:
        return Status(State.PREEMPTED, task or f"at step {run.requeue.read_text().strip()}")
    if task:
        return Status(State.WAITING, task)
    if run.config.exists():
        return Status(State.FAILED, error or _reason(run.path) or "it was killed")
    return Status(State.FAILED, error) if error is not None else Status(State.WAITING)


def statuses(sweep: Sweep, elements: Iterable[Element], queued: Mapping[int, str] | None = None) -> dict[int, Status]:
    """The state of each job, by index."""
    return {element.index: status(sweep, element, queued) for element in elements}


def counts(found: Iterable[Status]) -> str:
    """``3 done, 1 running``."""
    counter = Counter(entry.state for entry in found)
    return ", ".join(f"{counter[state]} {state}" for state in reversed(State) if counter[state])


def outputs(sweep: Sweep, element: Element) -> Path | None:
    """The newest file of what the processes of a job said on the console."""
    found = sweep.logs.glob(f"*_{element.index}.out")
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def said_error(output: Path | None, after: Path) -> str | None:
    """The last error of a job's last start, or else SLURM's; None where all was said before ``after`` was written."""
    if output is None or (after.exists() and output.stat().st_mtime < after.stat().st_mtime):
        return None
    with output.open("rb") as file:
        file.seek(max(0, output.stat().st_size - _TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    starts = [number for number, line in enumerate(lines, start=1) if _QUEUED_AGAIN in line]
    last = lines[max(starts, default=0) :]
    found = [number for number, line in enumerate(last) if _ERROR.match(line)]
    found = found or [number for number, line in enumerate(last) if _SLURM_ERROR.match(line)]
    if not found:
        return None
    error, *following = last[found[-1] : found[-1] + 2]
    place = "".join(f" ({line.removeprefix(_WHERE)})" for line in following if line.startswith(_WHERE))
    return error.removeprefix("error: ").removeprefix("mmtrain.errors.") + place


def _reason(run: Path) -> str | None:
    """Why the last segment of a run failed; None where it could not say so itself."""
    try:
        segments = read_head(run / NAME, {"segments"})["segments"]
        return str(segments[-1]["reason"] or "").partition("failed: ")[2] or None
    except (OSError, ValueError, KeyError, IndexError):
        return None


def _told(holder: Holder | None) -> str:
    if holder is None:
        return ""
    return f"job {holder.job} on {holder.host}" if holder.job is not None else f"process {holder.pid} on {holder.host}"


def _holder_without_locks(run: Path) -> Holder | None:
    """Who holds a run on a file system without locks; on another machine it may have died."""
    holder = read_holder(run)
    if holder is None or (holder.process.is_here and not is_alive(holder.pid, holder.process)):
        return None
    return holder
