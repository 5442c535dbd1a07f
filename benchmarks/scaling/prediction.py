"""The table of what is predicted."""

from __future__ import annotations

from collections.abc import Sequence

from scaling.analytic import Workload, state_bytes, step_seconds
from scaling.cluster import Cluster
from scaling.examples import Example
from scaling.table import Table

STRATEGIES = ("ddp", "fsdp", "hsdp")


def prediction(example: Example, cluster: Cluster, devices: Sequence[int], most: float) -> Table:
    """Step time, and the throughput over that of as many single devices, by strategy.

    Args:
        example: What is trained, on weak scaling.
        cluster: Where.
        devices: Numbers of them, one a row.
        most: Bytes of a device.
    """
    work = example.work
    header = ("GPUs", *(f"{name}, ms" for name in STRATEGIES), *(f"{name}, efficiency" for name in STRATEGIES))
    rows = []
    for count in devices:
        seconds = [
            step_seconds(name, work, cluster, count) if fits(name, work, cluster, count, most) else None
            for name in STRATEGIES
        ]
        times = ["no room" if own is None else f"{1000 * own:,.1f}" for own in seconds]
        shares = ["" if own is None else f"{work.step_s / own:.1%}" for own in seconds]
        rows.append((f"{count:,}", *times, *shares))
    return Table(f"{example.title}; {1000 * work.step_s:,.1f} ms on one", header, rows)


def fits(strategy: str, work: Workload, cluster: Cluster, devices: int, most: float) -> bool:
    """Whether weights, gradients and the optimizer's state have room on a device, activations apart."""
    shards = min(devices, cluster.node) if strategy == "hsdp" else devices
    return state_bytes(strategy, work.params, work.outside, shards) <= most
