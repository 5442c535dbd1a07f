"""What collectives cost here: ``python -m scaling.collectives WORLD DEVICE BYTES ROUNDS`` prints them as JSON."""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from scaling.cluster import GIGABIT, Link

NAMES = ("all-reduce", "all-gather", "reduce-scatter")
SMALL = 4096
"""Bytes of a message that costs little but hops."""


def measure(rank: int, world: int, device: str, size: int, rounds: int, out: Path) -> None:
    """Times each collective of a small and a large message; rank 0 writes seconds by the clock and of a processor."""
    torch.set_num_threads(1)
    if device == "cuda":
        torch.cuda.set_device(rank)
    backend = "nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{out}.store", rank=rank, world_size=world)
    times = {
        name: {"small": _time(name, SMALL, rounds, device), "large": _time(name, size, rounds, device)}
        for name in NAMES
    }
    if rank == 0:
        out.write_text(json.dumps(times))
    dist.destroy_process_group()


def link_of(times: Mapping[str, Any], clock: str, size: int, world: int) -> Link:
    """The network on which a ring would take as long for an all-reduce as was measured.

    Args:
        times: Of the small and the large all-reduce.
        clock: ``wall`` or ``cpu``.
        size: Bytes of the large one.
        world: Number of ranks.
    """
    small, large = (statistics.median(times[key][clock]) for key in ("small", "large"))
    sent = 2 * (world - 1) / world * size
    return Link(gbps=sent / max(large - small, 1e-9) / GIGABIT, latency_us=1e6 * small / (2 * (world - 1)))


def _time(name: str, size: int, rounds: int, device: str) -> dict[str, list[float]]:
    world = dist.get_world_size()
    whole = torch.ones(size // 4 // world * world, device=device)
    part = torch.ones(len(whole) // world, device=device)
    run: Callable[[], Any] = {
        "all-reduce": lambda: dist.all_reduce(whole),
        "all-gather": lambda: dist.all_gather_into_tensor(whole, part),
        "reduce-scatter": lambda: dist.reduce_scatter_tensor(part, whole),
    }[name]
    wall, cpu = [], []
    for number in range(rounds + 2):
        whole.fill_(1.0)
        dist.barrier()
        start, cpu_start = time.perf_counter(), time.process_time()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        if number >= 2:
            wall.append(time.perf_counter() - start)
            cpu.append(time.process_time() - cpu_start)
    every: list[list[float]] = [[]] * world
    dist.all_gather_object(every, cpu)
    return {"wall": wall, "cpu": [sum(own) / world for own in zip(*every, strict=True)]}


if __name__ == "__main__":
    the_world, the_device, the_size, the_rounds = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "times.json")
        mp.spawn(measure, (the_world, the_device, the_size, the_rounds, file), nprocs=the_world)  # type: ignore[no-untyped-call]
        print(file.read_text())
