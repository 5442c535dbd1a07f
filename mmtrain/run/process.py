"""Which process is meant by a number, also after it has ended and the number is another's."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True)
class Process:
    """What tells a process from others of its number.

    Attributes:
        machine: Where numbers of processes are unique: a boot of a kernel, and a namespace in it.
        started: When it started, in the kernel's ticks since boot.
    """

    machine: str
    started: int

    @property
    def is_here(self) -> bool:
        """Whether it ran, or runs, where this process does, so that it can be looked for."""
        return self.machine != "" and self.machine == _machine()


def this_process() -> Process:
    """This process. Without Linux's ``/proc`` nothing is known of it."""
    return Process(_machine(), _started(os.getpid()) or 0)


def is_alive(pid: int, process: Process) -> bool:
    """Whether the process of number ``pid`` runs and is ``process``, which must be one of this machine."""
    return _started(pid) == process.started


def _machine() -> str:
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {(_PROC / 'self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(pid: int) -> int | None:
    try:
        # The name in parentheses may hold anything; field 3 is the state, field 22 the start.
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])
