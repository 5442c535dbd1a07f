"""Ranks and collectives, without Lightning. Every function also works in one process with no process group.

Ranks that share the blocks of a model (tensor parallelism) work on the same samples, and count as one data-parallel
rank: what is summed or gathered over samples is so over the data-parallel group. Without sharing, it is all ranks.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_data_parallel: dist.ProcessGroup | None = None


def initialized() -> bool:
    """Whether this process belongs to a process group."""
    return dist.is_available() and dist.is_initialized()


def started_by_srun() -> bool:
    """Whether this process is one of several tasks of a SLURM step: its ranks are all there.

    A batch script, a shell in an allocation (``salloc``, ``srun --pty bash``) and what they start are none, although
    they bear most of SLURM's variables.
    """
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1


def rank() -> int:
    """Global rank: from the process group, else from the launcher's environment, else 0."""
    if initialized():
        return dist.get_rank()
    local = "SLURM_PROCID" if started_by_srun() else "LOCAL_RANK"
    return int(os.environ.get("RANK", os.environ.get(local, "0")))


def world_size() -> int:
    """Number of processes in the group; 1 without a group."""
    return dist.get_world_size() if initialized() else 1


def join_tensor_parallel(size: int, timeout: timedelta | None = None) -> None:
    """Has each ``size`` consecutive ranks, which share blocks, count as one data-parallel rank. All must call it.

    Args:
        size: Must divide the number of ranks; 1 takes it back.
        timeout: How long a collective of data-parallel ranks may wait; None is PyTorch's default.
    """
    global _data_parallel
    _data_parallel = None
    if size > 1:
        places = [list(range(place, world_size(), size)) for place in range(size)]
        _data_parallel, _ = dist.new_subgroups_by_enumeration(places, timeout=timeout)


def data_parallel_group() -> dist.ProcessGroup | None:
    """Ranks that have all shares of a batch between them, this one among them; None is all ranks."""
    return _data_parallel


def data_parallel_rank() -> int:
    """Number of this rank's share of a batch: `rank`, where no blocks are shared."""
    return rank() if _data_parallel is None else dist.get_rank(_data_parallel)


def data_parallel_size() -> int:
    """Shares that a batch is cut into: `world_size`, where no blocks are shared."""
    return world_size() if _data_parallel is None else dist.get_world_size(_data_parallel)


def barrier() -> None:
    """Waits for all ranks."""
    if initialized():
        dist.barrier()


def all_reduce_sum(x: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """Sum of ``x`` over the ranks of a group, or over all, as a new tensor without gradient."""
    total = x.detach().clone()
    if initialized():
        dist.all_reduce(total, group=group)
    return total


def all_reduce_max(x: Tensor) -> Tensor:
    """Elementwise maximum of ``x`` over all ranks, as a new tensor without gradient."""
    largest = x.detach().clone()
    if initialized():
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return largest


def any_rank(flag: bool, device: torch.device | str = "cpu") -> bool:
    """Whether ``flag`` is true on at least one rank; all ranks get the same answer."""
    if world_size() == 1:
        return flag
    return bool(all_reduce_sum(torch.tensor(float(flag), device=device)) > 0)


def broadcast_object(value: Any, src: int = 0) -> Any:
    """Rank ``src``'s picklable ``value``, on every rank."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=src)
    return box[0]


def all_gather_object(value: Any, group: dist.ProcessGroup | None = None) -> list[Any]:
    """The picklable ``value`` of every rank of a group, or of all, in the order of ranks."""
    if world_size() == 1:
        return [value]
    out: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(out, value, group=group)
    return out


class _AllGather(torch.autograd.Function):
    """Concatenates over ranks along dim 0; backward, each rank gets the sum of all ranks' gradients of its part."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out = x.new_empty((data_parallel_size() * x.shape[0], *x.shape[1:]))
        dist.all_gather_into_tensor(out, x.contiguous(), group=_data_parallel)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (grad,) = grads
        local = grad.shape[0] // data_parallel_size()
        if dist.get_backend(_data_parallel) == "nccl":
            out = grad.new_empty((local, *grad.shape[1:]))
            dist.reduce_scatter_tensor(out, grad.contiguous(), group=_data_parallel)
            return out
        total = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=_data_parallel)
        first = data_parallel_rank() * local
        return total[first : first + local]


def all_gather(x: Tensor) -> Tensor:
    """Concatenation of the ``x`` of all data-parallel ranks along dim 0, differentiable.

    Every rank must pass the same shape ``(n, ...)``; returns ``(data_parallel_size * n, ...)``. In the backward pass
    each rank receives the *sum* over ranks of the gradients of its own part, so that the mean over ranks that
    data-parallel training takes of parameter gradients is exact for a loss that every rank scales by their number.
    """
    if data_parallel_size() == 1:
        return x
    return _AllGather.apply(x)  # type: ignore[no-untyped-call, no-any-return]
