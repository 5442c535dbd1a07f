"""Ranks that Lightning starts from the first process of a node live no longer than that one."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_LAUNCHER = "MMTRAIN_LAUNCHER_PID"
_PR_SET_PDEATHSIG = 1


@contextmanager
def tied_to_launcher() -> Iterator[None]:
    """Has this process end with the one that started it as a further rank, and those that it starts end with it.

    A rank whose launcher was killed would wait for it as long as a collective may take. Where something else starts
    the ranks (``srun``, ``torchrun``), it ends them, and this does nothing.
    """
    parent = os.environ.get(_LAUNCHER)
    if parent is not None and "LOCAL_RANK" in os.environ and sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if str(os.getppid()) != parent:
            sys.exit(1)  # it died before the line above
    os.environ[_LAUNCHER] = str(os.getpid())
    try:
        yield
    finally:
        if parent is None:
            del os.environ[_LAUNCHER]
        else:
            os.environ[_LAUNCHER] = parent
