"""Many epochs over shards with faults, on real ranks: the same steps everywhere, exact counts, flat memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from gloo_ranks import RunRanks
from loading import samples
from pairs import write_data_set

from mmtrain.data import EpochPlan, Loader, Manifest, ShardIndex, build_manifest, load_manifest

SIZES = (611, 593, 640, 566, 590)  # 3,000 samples
BATCH = 64
EPOCHS = 3


def plant(manifest: Manifest) -> tuple[Manifest, set[str]]:
    """Spoils one sample in a hundred: a flipped bit in every other one, else a picture that cannot be decoded."""
    spoilt: set[str] = set()
    broken_pictures = set(range(0, sum(SIZES), 200))
    flipped = set(range(100, sum(SIZES), 200))
    for kind in ("picture", "bit"):  # the index is made in between: it knows the pictures, not the bits
        first = 0
        for shard, size in enumerate(SIZES):
            path = manifest.shard_path(shard)
            index, data = ShardIndex(path), bytearray(path.read_bytes())
            for number in sorted(broken_pictures if kind == "picture" else flipped):
                if first <= number < first + size:
                    start, stop = index.span(number - first)
                    if kind == "picture":
                        data[start + 2 : start + 60] = bytes(58)
                    else:
                        data[(start + stop) // 2] ^= 4
                    spoilt.add(index.key(number - first))
            path.write_bytes(data)
            first += size
        if kind == "picture":
            for path in manifest.path.parent.glob("*.mmidx"):
                path.unlink()
            shards = [manifest.shard_path(shard) for shard in range(len(SIZES))]
            manifest = build_manifest(shards, manifest.path)
    return manifest, spoilt


def resident_mib() -> float:
    """Memory of this process and its children, each page once."""
    own = Path("/proc/self")
    pids = [own, *(Path(f"/proc/{pid}") for pid in (own / f"task/{own.resolve().name}/children").read_text().split())]
    kib = 0
    for pid in pids:
        rollup = (pid / "smaps_rollup").read_text()
        kib += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return kib / 1024


def soak(manifest: Path, epochs: int) -> dict[str, Any]:
    rank, world_size = dist.get_rank(), dist.get_world_size()
    data = load_manifest(manifest)
    plan = EpochPlan(data.sizes, global_batch_size=BATCH, seed=3, rank=rank, world_size=world_size, window=256)
    loader = Loader(samples(data, "skip"), plan, num_workers=2)
    steps, faults, memory, keys = [], [], [], []
    for _ in range(epochs):
        step, seen = 0, []
        for batch in loader:
            weight = batch["weight"].sum()
            dist.all_reduce(weight)  # hangs where ranks take different numbers of steps
            seen += [key for key, real in zip(batch["key"], batch["weight"], strict=True) if real]
            step += 1
        steps.append(step)
        keys.append(seen)
        faults.append(len(loader.take_faults()))
        dist.barrier()  # pages that ranks share count in parts, so all must be there
        memory.append(resident_mib())
        dist.barrier()
    loader.close()
    return {"steps": steps, "faults": faults, "memory": memory, "keys": keys}


@pytest.mark.slow
def test_epochs_over_damaged_shards(run_ranks: RunRanks, tmp_path: Path) -> None:
    manifest, spoilt = plant(write_data_set(tmp_path, SIZES))
    assert len(spoilt) == sum(SIZES) // 100
    ranks = run_ranks(2, soak, manifest.path, EPOCHS)
    assert ranks[0]["steps"] == ranks[1]["steps"] == [-(-sum(SIZES) // BATCH)] * EPOCHS
    everything = {f"{number:05d}" for number in range(sum(SIZES))}
    for epoch in range(EPOCHS):
        assert sum(rank["faults"][epoch] for rank in ranks) == len(spoilt)
        assert sorted(ranks[0]["keys"][epoch] + ranks[1]["keys"][epoch]) == sorted(everything - spoilt)
    for rank in ranks:
        assert rank["memory"][-1] - rank["memory"][0] < 8, f"MiB after each epoch: {rank['memory']}"
