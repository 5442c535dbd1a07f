"""What state a run is in, by the marks in its directory."""

from __future__ import annotations

import fcntl
import os
import struct
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal, get_args

from mmtrain.run.manifest_file import NAME, read_head

RunState = Literal["running", "done", "preempted", "failed", "killed", "unknown"]
"""Unknown: neither a mark nor a lock tells, since the file system has no locks."""

STATES: tuple[RunState, ...] = get_args(RunState)

_ENDED: dict[str, RunState] = {"finished": "done", "preempted": "preempted", "failed": "failed"}
"""State of a run without marks, by the reason that its last segment ended."""

_DARWIN, _LINUX = "qqihh", "hhqqi"


def run_state(run: Path) -> RunState:
    """The state of the run in a directory."""
    try:
        segments = read_head(run / NAME, {"segments"}).get("segments", [])
    except (OSError, ValueError):
        segments = []
    return state_of(run, os.listdir(run), segments)


def state_of(run: Path, names: Collection[str], segments: list[dict[str, Any]]) -> RunState:
    """The state of a run of which the directory's names and the history are known; asks for the lock where it must.

    Args:
        run: The run directory.
        names: What it holds.
        segments: The history in its manifest; empty where it has none.
    """
    if "DONE" in names:
        return "done"
    if "REQUEUE" in names:
        return "preempted"
    held = lock_holder(run / "lock") if "lock" in names else 0
    if held is None:
        return "unknown"
    if held:
        return "running"
    reason = str(segments[-1].get("reason")) if segments else ""
    return _ENDED.get(reason.partition(":")[0], "killed")


def lock_holder(path: Path) -> int | None:
    """The process that holds a POSIX record lock on a file, 0 for none; None where the file system cannot tell.

    Asks, and takes no lock: a run that starts in this moment is not disturbed. It is -1 for one on another host.
    Not for the holder itself: to close the file gives up its lock.
    """
    darwin = sys.platform == "darwin"
    values = (0, 0, 0, fcntl.F_WRLCK, 0) if darwin else (fcntl.F_WRLCK, 0, 0, 0, 0)
    layout = _DARWIN if darwin else _LINUX
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return 0
    except OSError:
        return None
    try:
        answer = fcntl.fcntl(file, fcntl.F_GETLK, struct.pack(layout, *values))
    except OSError:
        return None
    finally:
        os.close(file)
    found = struct.unpack(layout, answer)
    kind, pid = (found[3], found[2]) if darwin else (found[0], found[4])
    return 0 if kind == fcntl.F_UNLCK else pid or -1
