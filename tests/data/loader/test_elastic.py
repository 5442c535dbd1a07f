from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import pytest
from loading import BATCH, STEPS, global_batches, loader, python, run, take

from mmtrain.data import Manifest


@pytest.fixture(scope="module")
def reference(data_set: Manifest) -> list[str]:
    """Two epochs and a bit, by one process without workers."""
    return global_batches(run(data_set, 1, 0, 2 * STEPS + 2)[0])


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_order_and_pixels_are_the_same_for_any_ranks_and_workers(
    data_set: Manifest, reference: list[str], world_size: int, num_workers: int
) -> None:
    ranks, _ = run(data_set, world_size, num_workers, STEPS + 2)
    assert global_batches(ranks) == reference[: STEPS + 2]


def test_a_run_resumed_on_other_ranks_and_workers_sees_the_same_samples(
    data_set: Manifest, reference: list[str]
) -> None:
    seen: list[str] = []
    state = None
    for world_size, num_workers, count in ((2, 1, 4), (1, 0, 4), (4, 2, 4), (1, 3, 2)):
        ranks, state = run(data_set, world_size, num_workers, count, state)
        seen += global_batches(ranks)
    assert seen == reference
    assert state is not None
    assert (state["epoch"], state["samples"]) == (2, 2 * BATCH)


RANK_PROGRAM = """
    import json, sys
    from pathlib import Path
    import torch.distributed as dist
    from loading import loader
    from mmtrain.data import load_manifest
    dist.init_process_group("gloo")
    rank, world_size = dist.get_rank(), dist.get_world_size()
    source = loader(load_manifest(Path(sys.argv[1])), rank, world_size, num_workers=int(sys.argv[2]))
    position, stop, out = Path(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5])
    if position.exists():
        source.load_state_dict(json.loads(position.read_text()))
    seen, epochs = [], 0
    while epochs < 2 and len(seen) < stop:
        for batch in source:
            weight = batch["weight"].sum()
            dist.all_reduce(weight)  # hangs where ranks take different numbers of steps
            parts = [None] * world_size
            dist.all_gather_object(parts, (batch["key"], int(batch["image"].long().sum())))
            seen.append([sum((keys for keys, _ in parts), []), sum(pixels for _, pixels in parts), int(weight)])
            if len(seen) == stop:
                break
        epochs += 1
    states = [None] * world_size
    dist.all_gather_object(states, source.state_dict())
    assert all(state == states[0] for state in states)
    dist.barrier()
    if rank == 0:
        position.write_text(json.dumps(states[0]))
        out.write_text(json.dumps(seen))
    dist.barrier()
"""


@pytest.mark.slow
def test_real_ranks_resume_on_another_number_of_ranks(data_set: Manifest, tmp_path: Path) -> None:
    program = tmp_path / "ranks.py"
    program.write_text(textwrap.dedent(RANK_PROGRAM))

    def launch(ranks: int, workers: int, stop: int, name: str) -> list[Any]:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        out = tmp_path / f"{name}.json"
        python(*launcher, program, data_set.path, workers, tmp_path / "position", stop, out)
        seen: list[Any] = json.loads(out.read_text())
        return seen

    expected = [
        [batch["key"], int(batch["image"].long().sum()), int(batch["weight"].sum())]
        for batch in take(loader(data_set), 3 * STEPS)
    ]
    first = launch(2, 1, 4, "first")
    second = launch(3, 2, 100, "second")  # to the end of its second epoch
    assert first + second == expected[: 2 * STEPS]
    assert sum(weight for *_, weight in first + second) == 2 * 71
