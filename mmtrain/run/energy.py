"""Energy, where the hardware counts it: NVIDIA's total of a GPU, and RAPL's of a machine's CPU packages."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

POWERCAP = Path("/sys/class/powercap")

_MOST_WATTS = 1500.0
"""What no CPU package draws: a counter that was read often enough for this cannot have gone round twice."""


@dataclass(frozen=True)
class Energy:
    """Joules that counters counted while a segment trained; None where one could not be read on every rank.

    Attributes:
        gpu_joules: All GPUs of the run, whoever else used them.
        cpu_joules: All CPU packages of its machines, whoever else used them.
    """

    gpu_joules: float | None = None
    cpu_joules: float | None = None

    def __bool__(self) -> bool:
        return self.gpu_joules is not None or self.cpu_joules is not None


class GpuCounter:
    """The energy counter of one GPU.

    Args:
        device: The rank's device; others than CUDA's have none.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._start = self._millijoules()

    def joules(self) -> float | None:
        """Joules since the beginning; None without a counter."""
        if self._start is None or (now := self._millijoules()) is None:
            return None
        return (now - self._start) / 1000

    def _millijoules(self) -> int | None:
        if self._device.type != "cuda":
            return None
        try:
            import pynvml
        except ImportError:
            return None
        try:
            pynvml.nvmlInit()
            # By UUID: NVML numbers the machine's GPUs, and CUDA those that it may see.
            uuid = f"GPU-{torch.cuda.get_device_properties(self._device).uuid}"
            handle: Any = pynvml.nvmlDeviceGetHandleByUUID(uuid)
            return int(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle))
        except (pynvml.NVMLError, AttributeError):
            return None


class CpuCounter:
    """The energy counters of a machine's CPU packages, which go round every few minutes and so must be polled.

    Args:
        root: Where the kernel shows them.
    """

    def __init__(self, root: Path = POWERCAP) -> None:
        self._zones = _zones(root)
        self._last = {zone: _read(zone / "energy_uj") for zone in self._zones}
        self._polled_at = time.monotonic()
        self._microjoules = 0
        self._lost = not self._zones or None in self._last.values()

    def poll(self) -> None:
        """Reads the counters, at most once in ten seconds."""
        if not self._lost and time.monotonic() - self._polled_at > 10:
            self._advance()

    def joules(self) -> float | None:
        """Joules since the beginning; None without counters, or where they went round unseen."""
        if not self._lost:
            self._advance()
        return None if self._lost else self._microjoules / 1e6

    def _advance(self) -> None:
        now = time.monotonic()
        for zone, limit in self._zones.items():
            value, before = _read(zone / "energy_uj"), self._last[zone]
            if value is None or before is None or (now - self._polled_at) * _MOST_WATTS * 1e6 > limit:
                self._lost = True
                return
            self._microjoules += (value - before) % limit
            self._last[zone] = value
        self._polled_at = now


def _zones(root: Path) -> dict[Path, int]:
    """Range of the counter of each package, in microjoules; parts of packages (``intel-rapl:0:0``) are left out."""
    found = {}
    for zone in sorted(root.glob("intel-rapl:*")):
        limit = _read(zone / "max_energy_range_uj")
        if zone.name.count(":") == 1 and limit:
            found[zone] = limit
    return found


def _read(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
