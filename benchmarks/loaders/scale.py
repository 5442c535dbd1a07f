"""What planning an epoch of a billion samples takes: a synthetic manifest, and no shard behind it."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from loaders.ours import plan_epoch
from mmtrain.data import EpochPlan, Manifest, ShardInfo, load_manifest
from mmtrain.data.shards.manifest import MANIFEST, save_manifest

Result = TypeVar("Result")

SHAPES = ((100_000, 10_000), (1_000_000, 1_000))
"""Shards, and samples of each."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shards", type=int, required=True)
    parser.add_argument("--samples", type=int, required=True, help="of a shard")
    arguments = parser.parse_args()
    size, sha256 = 10_000 * arguments.samples, "0" * 64
    names = (f"{number:07d}.tar" for number in range(arguments.shards))
    shards = tuple(ShardInfo(name, arguments.samples, size, sha256) for name in names)
    # Planning comes before reading, which leaves freed memory behind that would hide what planning takes.
    first, plan = _watch(lambda: _first(Manifest(Path(MANIFEST), shards, "synthetic")))
    resumed, _ = _watch(lambda: plan.share(0, len(plan) * 9 // 10))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, MANIFEST)
        writer = multiprocessing.Process(target=save_manifest, args=(path, shards))
        writer.start()  # in a process of its own, for the same reason
        writer.join()
        load, _ = _watch(lambda: load_manifest(path))
    print(json.dumps({"load": load, "first": first, "resumed": resumed}))


def _first(manifest: Manifest) -> EpochPlan:
    plan = plan_epoch(manifest)
    plan.share(0, 0)
    return plan


def _watch(work: Callable[[], Result]) -> tuple[dict[str, float], Result]:
    """Time of some work, the bytes that its memory grew by at its peak, and its result."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before, start = _memory("VmRSS"), time.perf_counter()
    result = work()
    return {"seconds": time.perf_counter() - start, "bytes": _memory("VmHWM") - before}, result


def _memory(name: str) -> int:
    """Resident bytes of this process, now (VmRSS) or at most (VmHWM)."""
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


if __name__ == "__main__":
    main()
