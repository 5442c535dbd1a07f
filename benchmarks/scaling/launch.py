"""Runs one of this package's modules in an interpreter and a process group of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from scaling.task import Task

FOLDER = Path(__file__).resolve().parent.parent
_SETTINGS = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "HF_HUB_OFFLINE": "1"}
_LIMIT = 900  # seconds


def train(task: Task) -> Any:
    """What the ranks of a task measure, see `scaling.rank`."""
    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        out = Path(folder, "result.json")
        _run("rank", task.to_json(), out)
        return json.loads(out.read_text())


def time_collectives(world: int, device: str, message: int, rounds: int) -> Any:
    """Seconds of the collectives of some ranks, see `scaling.collectives`."""
    return json.loads(_run("collectives", world, device, message, rounds))


def _run(module: str, *arguments: object) -> str:
    """What a module prints. What it started and left behind is ended with it.

    Raises:
        RuntimeError: It ended with an error.
    """
    command = [sys.executable, "-m", f"scaling.{module}", *map(str, arguments)]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:  # pipes would wait for orphans
        process = subprocess.Popen(
            command,
            cwd=FOLDER,
            env=os.environ | _SETTINGS,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
        try:
            process.wait(_LIMIT)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        if process.returncode:
            err.seek(0)
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {err.read()[-3000:]}")
        out.seek(0)
        return out.read()
