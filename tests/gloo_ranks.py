"""Real ranks: processes joined by gloo."""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

RunRanks = Callable[..., list[Any]]

# Processes are forked from a server that has imported all that is slow, and has started no thread.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["mmtrain.objective.clip", "mmtrain.objective.lm"])
TIMEOUT_S = 120


def run_in(folder: Path, world_size: int, function: Callable[..., Any], arguments: tuple[Any, ...]) -> list[Any]:
    """What ``function`` returns in each rank of a gloo group, in the order of ranks; they meet in ``folder``."""
    ranks = [
        PROCESSES.Process(target=_work, args=(rank, world_size, folder, function, arguments))
        for rank in range(world_size)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(TIMEOUT_S)
        process.kill()
    errors = [path.read_text() for path in sorted(folder.glob("*.error"))]
    assert not errors, "\n".join(errors)
    return [torch.load(folder / f"{rank}.pt") for rank in range(world_size)]


def _work(rank: int, world_size: int, folder: Path, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    try:
        dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=world_size)
        result = function(*arguments)
        dist.barrier()
        dist.destroy_process_group()
    except BaseException:
        (folder / f"{rank}.error").write_text(traceback.format_exc())
        raise
    torch.save(result, folder / f"{rank}.pt")
