"""Ranks and collectives, without Lightning. Every function also works in one process with no process group."""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


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


def barrier() -> None:
    """Waits for all ranks."""
    if initialized():
        dist.barrier()


def all_reduce_sum(x: Tensor) -> Tensor:
    """Sum of ``x`` over all ranks, as a new tensor without gradient."""
    total = x.detach().clone()
    if initialized():
        dist.all_reduce(total)
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


def all_gather_object(value: Any) -> list[Any]:
    """Every rank's picklable ``value``, in the order of ranks."""
    if world_size() == 1:
        return [value]
    out: list[Any] = [None] * world_size()
    dist.all_gather_object(out, value)
    return out


class _AllGather(torch.autograd.Function):
    """Concatenates over ranks along dim 0; backward, each rank gets the sum of all ranks' gradients of its part."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out = x.new_empty((world_size() * x.shape[0], *x.shape[1:]))
        dist.all_gather_into_tensor(out, x.contiguous())
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (grad,) = grads
        local = grad.shape[0] // world_size()
        if dist.get_backend() == "nccl":
            out = grad.new_empty((local, *grad.shape[1:]))
            dist.reduce_scatter_tensor(out, grad.contiguous())
            return out
        total = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[dist.get_rank() * local : (dist.get_rank() + 1) * local]


def all_gather(x: Tensor) -> Tensor:
    """Concatenation of all ranks' ``x`` along dim 0, differentiable.

    Every rank must pass the same shape ``(n, ...)``; returns ``(world_size * n, ...)``. In the backward pass each
    rank receives the *sum* over ranks of the gradients of its own part, so that the mean over ranks that data-parallel
    training takes of parameter gradients is exact for a loss that every rank scales by ``world_size``.
    """
    if world_size() == 1:
        return x
    return _AllGather.apply(x)  # type: ignore[no-untyped-call, no-any-return]
