"""One measurement, or one preparation, in this process: ``python -m loaders.measure LOADER raw|batches|prepare ...``.

Prints one line of JSON. Linux only: CPU time comes from /proc, and holds that of all the processes started here.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import torch

_TICK = os.sysconf("SC_CLK_TCK")
_PARENT, _UTIME, _CUTIME_END = 1, 11, 15  # fields of /proc/PID/stat after the command's name


def cpu_seconds() -> float:
    """CPU time of this process and of all its descendants, living (counted in ticks of 10 ms) or waited for."""
    parents, ticks = {}, {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                fields = Path(entry.path, "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has ended since
                continue
            parents[int(entry.name)] = int(fields[_PARENT])
            ticks[int(entry.name)] = sum(map(int, fields[_UTIME:_CUTIME_END]))
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    living, family = 0, {os.getpid()}
    while family := {child for child, parent in parents.items() if parent in family}:
        living += sum(ticks[child] for child in family)
    return time.process_time() + ended.ru_utime + ended.ru_stime + living / _TICK


def measure(items: Iterator[Any], level: str, samples: int) -> dict[str, Any]:
    """Counts the time of 5% to 90% of an epoch's samples: workers run and shuffle buffers are full all the while."""
    start, warm = time.perf_counter(), None
    count = 0
    for item in items:
        count += 1 if level == "raw" else len(item["key"])
        if warm is None and count >= samples // 20:
            warm = count, time.perf_counter(), cpu_seconds()
        if count >= samples * 9 // 10:
            break
    assert warm is not None and count > warm[0], f"the loader gave {count} of {samples} samples"
    wall, cpu = time.perf_counter() - warm[1], cpu_seconds() - warm[2]
    return {"samples": count - warm[0], "wall": wall, "cpu": cpu, "warm_up": warm[1] - start}


def prepare(loader: ModuleType, tar: Path, out: Path) -> dict[str, Any]:
    """Writes the loader's own form of the shards, whole or not at all."""
    if not out.exists():
        partial = out.with_name(out.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        loader.prepare(tar, partial)
        partial.rename(out)
    return {"prepared": str(out)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("loader")
    parser.add_argument("action", choices=["raw", "batches", "prepare"])
    parser.add_argument("--tar", type=Path, required=True)
    parser.add_argument("--prepared", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--samples", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    loader = importlib.import_module(f"loaders.{arguments.loader}")
    tar, prepared = arguments.tar, arguments.prepared
    if arguments.action == "prepare":
        result = prepare(loader, tar, prepared)
    elif arguments.action == "raw":
        result = measure(loader.raw(tar, prepared), "raw", arguments.samples)
    else:
        result = measure(loader.batches(tar, prepared, arguments.workers), "batches", arguments.samples)
    print(json.dumps(result), flush=True)
    os._exit(0)  # some loaders' workers and threads outlive an epoch that is broken off


if __name__ == "__main__":
    main()
