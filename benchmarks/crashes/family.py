"""The processes of a run of two ranks, by what they are."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

PROC = Path("/proc")


def members(session: int) -> dict[str, int]:
    """Living processes of a session: ``rank 0``, its leader, ``rank 1``, and each one's first data worker, by name."""
    parents = {pid: fields for pid, fields in _stats().items() if fields[1] == session}
    found = {"rank 0": session} if session in parents else {}
    children = sorted(pid for pid, (parent, _) in parents.items() if parent == session)
    if rank_1 := next((pid for pid in children if _environment(pid).get("LOCAL_RANK") == "1"), None):
        found["rank 1"] = rank_1
        if grandchild := min((pid for pid, (parent, _) in parents.items() if parent == rank_1), default=None):
            found["worker of rank 1"] = grandchild
    if worker := next((pid for pid in children if pid != rank_1), None):
        found["worker of rank 0"] = worker
    return found


def is_over(session: int) -> bool:
    """Whether no process of the session lives."""
    return all(fields[1] != session for fields in _stats().values())


def freeze(pid: int) -> None:
    """Stops a process, and waits until it stands still."""
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + 5
    while _state(pid) not in ("T", "Z", "") and time.monotonic() < deadline:
        time.sleep(0.0002)


def _stats() -> dict[int, tuple[int, int]]:
    """Parent and session of every process that is not a zombie."""
    found = {}
    for folder in PROC.glob("[0-9]*"):
        fields = _fields(int(folder.name))
        if fields and fields[0] not in "ZX":
            found[int(folder.name)] = (int(fields[1]), int(fields[3]))
    return found


def _fields(pid: int) -> list[str]:
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _state(pid: int) -> str:
    return next(iter(_fields(pid)), "")


def _environment(pid: int) -> dict[str, str]:
    try:
        text = (PROC / str(pid) / "environ").read_bytes().decode(errors="replace")
    except OSError:
        return {}
    return dict(line.split("=", 1) for line in text.split("\0") if "=" in line)
