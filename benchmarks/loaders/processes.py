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
from typing import IO, Any

FOLDER = Path(__file__).resolve().parent.parent
_SETTINGS = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "LITDATA_DISABLE_VERSION_CHECK": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHONWARNINGS": "ignore",
}
_LIMIT = 900  # seconds


class ProcessError(Exception):
    """A process failed; the message is the last line it wrote."""


def run(python: str | Path, module: str, *arguments: object) -> Any:
    """The JSON on the last line that ``module`` prints. What it started and left behind is ended with it.

    Raises:
        ProcessError: It ended with an error, or took too long.
    """
    environment = os.environ | _SETTINGS
    if str(python) != sys.executable:
        environment.pop("PYTHONPATH", None)  # a peer's interpreter sees its own packages only
    command = [str(python), "-m", f"loaders.{module}", *map(str, arguments)]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:  # pipes would wait for orphans
        process = subprocess.Popen(
            command,
            cwd=FOLDER,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
        try:
            process.wait(_LIMIT)
        except subprocess.TimeoutExpired:
            raise ProcessError(f"no result after {_LIMIT} s") from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        if process.returncode:
            raise ProcessError(_last_line(err) or f"exit status {process.returncode}")
        return json.loads(_last_line(out))


def _last_line(file: IO[str]) -> str:
    file.seek(0)
    return file.read().strip().rpartition("\n")[2]
