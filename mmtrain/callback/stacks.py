"""The Python stacks of a process and of its data workers."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
from pathlib import Path

ON_DEMAND = signal.SIGUSR2
"""``kill -USR2 PID`` prints the stacks of a training process, or of one of its data workers, to its standard error."""

_STANDARD_ERROR = 2


def listen() -> None:
    """Answers `ON_DEMAND` from here on. Data workers that are forked later answer, too."""
    faulthandler.register(ON_DEMAND, file=_STANDARD_ERROR, all_threads=True, chain=False)


def cease() -> None:
    """Gives the signal back."""
    faulthandler.unregister(ON_DEMAND)


def dump(path: Path, headline: str) -> None:
    """Appends the stacks of all threads to ``path``; data workers print theirs to standard error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{headline}\n")
        file.flush()
        faulthandler.dump_traceback(file, all_threads=True)
        # Those of a process are numbered as they were started, and this one may be waiting for any of them.
        workers = [child for child in multiprocessing.active_children() if child.pid is not None]
        for worker in workers:
            os.kill(worker.pid, ON_DEMAND)  # type: ignore[arg-type]  # it has been started
        if workers:
            pids = ", ".join(str(worker.pid) for worker in workers)
            file.write(f"The data workers {pids} print their stacks to standard error.\n")
        file.write("\n")
