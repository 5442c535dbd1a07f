"""The process that runs a run again: its command, its environment, and what it says when it fails."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

# Variables that change what is computed. Those that name interfaces, devices and jobs are this machine's.
_STEERING = re.compile(
    r"(OMP|OPENBLAS)_NUM_THREADS|OMP_PROC_BIND|OMP_PLACES|(MKL|DNNL|ONEDNN|ATEN_CPU|KMP|CUBLAS|CUDNN)_\w+"
    r"|TORCH_(CUDNN|ALLOW)\w*"
    r"|NVIDIA_TF32_OVERRIDE|NCCL_(ALGO|PROTO)|DS_ACCELERATOR|PYTHONHASHSEED"
)
_STOP_SECONDS = 120
_SAID_LINES = 15


class Child:
    """``python -m mmtrain ARGUMENTS`` in a process group of its own, which ends with this object's context.

    Args:
        arguments: Of the command line.
        place: Folder of the package to be run.
        cwd: Its working directory.
        variables: Environment variables that the run recorded.
        output: File for what it says.
    """

    def __init__(
        self, arguments: Sequence[str], place: Path, cwd: Path, variables: Mapping[str, str], output: Path
    ) -> None:
        self._output = output
        with output.open("wb") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mmtrain", *arguments],
                cwd=cwd,
                env=child_environment(os.environ, variables, place, cwd),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def wait(self) -> int:
        """Waits for its end; returns its exit status."""
        return self._process.wait()

    def stop(self) -> None:
        """Has it save and end, or ends it."""
        if self.is_running:
            self._process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=_STOP_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # its ranks and workers, too
        self._process.wait()

    def last_words(self) -> str:
        """Its error as it told it, or the last lines that it said."""
        lines = self._output.read_text(encoding="utf-8", errors="replace").rstrip().splitlines()
        errors = [number for number, line in enumerate(lines) if line.startswith("error: ")]
        return "\n".join(lines[errors[-1] :] if errors else lines[-_SAID_LINES:])


def child_environment(here: Mapping[str, str], recorded: Mapping[str, str], place: Path, cwd: Path) -> dict[str, str]:
    """The environment to run again in: that of here, with the variables of then that change what is computed.

    Args:
        here: Environment variables.
        recorded: Those that the run recorded.
        place: Folder of the package to be run, which goes before all others of its name.
        cwd: The working directory, where packages of the user's may lie.
    """
    kept = {name: value for name, value in here.items() if not _STEERING.fullmatch(name)}
    kept |= {name: value for name, value in recorded.items() if _STEERING.fullmatch(name)}
    # By itself Python looks in the working directory first, where another mmtrain may lie.
    path = [str(place), *filter(None, here.get("PYTHONPATH", "").split(os.pathsep)), str(cwd)]
    return kept | {"PYTHONPATH": os.pathsep.join(path), "PYTHONSAFEPATH": "1"}
