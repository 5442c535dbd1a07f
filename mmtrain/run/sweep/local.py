"""A sweep on this machine: each job in a process of its own, so many at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from mmtrain.errors import ConfigError
from mmtrain.run.sweep.plan import Element, Sweep
from mmtrain.run.sweep.state import status

_POLL_SECONDS = 0.05


class Pool:
    """Runs jobs of a sweep, and never more of them at once than it has slots.

    Each job leads a process group, which a Ctrl-C in the terminal does not reach: :meth:`stop` ends it in order.

    Args:
        sweep: The sweep.
        elements: Its jobs to run, in their order.
        slots: Jobs at a time.
        devices: The GPUs here, by the names that ``CUDA_VISIBLE_DEVICES`` takes; each slot gets its share of them.
    """

    def __init__(self, sweep: Sweep, elements: Sequence[Element], slots: int, devices: Sequence[str] = ()) -> None:
        self.sweep = sweep
        self.pending = list(elements)
        self.devices = tuple(devices)
        self.running: dict[int, tuple[Element, subprocess.Popen[bytes]]] = {}
        self.ended: dict[int, int] = {}
        self.slots = slots

    @property
    def busy(self) -> bool:
        """Whether there is anything left to start or to wait for."""
        return bool(self.pending or self.running)

    def step(self) -> None:
        """Notes the exit status of the jobs that ended, by index in ``ended``, and starts as many others."""
        for slot, (element, process) in list(self.running.items()):
            if (code := process.poll()) is not None:
                self.ended[element.index] = code
                del self.running[slot]
        for slot in range(self.slots):
            if slot not in self.running and (following := self._next()) is not None:
                self.running[slot] = (following, self._start(following, slot))

    def stop(self, grace_seconds: float) -> None:
        """Starts no more, asks all to save and go, and kills those that have not gone after ``grace_seconds``."""
        self.pending.clear()
        for _, process in self.running.values():
            process.terminate()
        deadline = time.monotonic() + grace_seconds
        while self.running and time.monotonic() < deadline:
            self.step()
            time.sleep(_POLL_SECONDS)
        self.kill()

    def kill(self) -> None:
        """Ends all that runs, at once."""
        for _, process in self.running.values():
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.step()

    def _next(self) -> Element | None:
        """The next job that is still missing: another command may have come first."""
        while self.pending:
            element = self.pending.pop(0)
            if status(self.sweep, element).is_missing:
                return element
        return None

    def _start(self, element: Element, slot: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "mmtrain", "sweep", "run", str(self.sweep.path), str(element.index)]
        with (self.sweep.logs / f"local_{element.index}.out").open("wb") as output:
            return subprocess.Popen(
                command,
                env={"OMP_NUM_THREADS": str(threads(self.slots)), **os.environ, **self._visible(slot)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def _visible(self, slot: int) -> Mapping[str, str]:
        return {"CUDA_VISIBLE_DEVICES": ",".join(share(self.devices, slot, self.slots))} if self.devices else {}


def share(devices: Sequence[str], slot: int, slots: int) -> list[str]:
    """The devices of a slot: all are used, and where there are fewer than slots, several slots share one."""
    return list(devices[slot::slots]) or [devices[slot % len(devices)]]


def require_share(wanted: int | str, devices: Sequence[str], slots: int) -> None:
    """Refuses more jobs at a time than their GPUs suffice for.

    Args:
        wanted: GPUs of each job, ``trainer.devices``; ``auto`` takes what there is.
        devices: The GPUs here; none where jobs train on the CPU.
        slots: Jobs at a time.

    Raises:
        ConfigError: It names the most that go.
    """
    if isinstance(wanted, int) and wanted > 1 and devices and len(devices) // slots < wanted:
        most = len(devices) // wanted
        raise ConfigError(
            f"{slots} jobs of {wanted} GPUs at a time need more than the {len(devices)} that are here",
            where="--jobs, trainer.devices",
            mend=f"--jobs {most}" if most else f"trainer.devices={len(devices)}",
        )


def threads(slots: int) -> int:
    """Threads for a job where the environment says nothing: several on one core are many times slower."""
    return max(1, len(os.sched_getaffinity(0)) // slots)
