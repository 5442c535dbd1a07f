"""Tensors that ranks hold in parts (PyTorch's DTensor), and modules that gather them (FSDP2)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset


def is_sharded(x: Tensor) -> bool:
    """Whether ranks hold the tensor in parts."""
    return isinstance(x, DTensor)


def own_part(x: Tensor) -> Tensor:
    """What this rank has of a sharded tensor, as a view; a whole one itself."""
    return x.to_local() if isinstance(x, DTensor) else x


def own_region(x: Tensor) -> tuple[slice, ...]:
    """Where this rank's part of a tensor stands in the whole of it, a slice for each dimension."""
    if not isinstance(x, DTensor):
        return tuple(slice(0, size) for size in x.shape)
    sizes, starts = compute_local_shape_and_global_offset(x.shape, x.device_mesh, x.placements)
    return tuple(slice(start, start + size) for start, size in zip(starts, sizes, strict=True))


def whole(part: Tensor, like: Tensor) -> Tensor:
    """The tensor of which every rank has a part, gathered from all.

    Args:
        part: This rank's part.
        like: A tensor that is sharded as it is, or a whole one; then ``part`` is the whole already.
    """
    if not isinstance(like, DTensor):
        return part
    sharded = DTensor.from_local(
        part, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )
    return sharded.full_tensor()


def by_mesh(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    """Tensors in groups that PyTorch can do one thing with at once: those on one mesh of ranks, and whole ones."""
    groups: dict[DeviceMesh | None, list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault(tensor.device_mesh if isinstance(tensor, DTensor) else None, []).append(tensor)
    return list(groups.values())


def counts_here(x: Tensor) -> bool:
    """Whether this rank is the first of those that hold the same part of a tensor, or the same whole one."""
    if not isinstance(x, DTensor):
        return not dist.is_initialized() or dist.get_rank() == 0
    place = x.device_mesh.get_coordinate()
    assert place is not None, "every rank belongs to the mesh"
    copies = [index for index, placement in zip(place, x.placements, strict=True) if placement.is_replicate()]
    # A mesh that leaves out a dimension of ranks is one of several, which hold the same.
    return not any(copies) and 0 in x.device_mesh.mesh


def total_norm(tensors: Iterable[Tensor]) -> Tensor:
    """The 2-norm of all elements of all tensors together, a scalar, on all ranks alike.

    Args:
        tensors: Whole ones, and such as are sharded over any meshes; at least one. All ranks must call it where any is.
    """
    tensors = list(tensors)
    if not any(map(is_sharded, tensors)):
        return torch.nn.utils.get_total_norm(tensors)
    norm = torch.nn.utils.get_total_norm([own_part(tensor) for tensor in tensors if counts_here(tensor)])
    total = norm.to(own_part(tensors[0]).device).square()
    dist.all_reduce(total)
    return total.sqrt()


def reshard(module: nn.Module) -> None:
    """Has the parameters of a module that FSDP2 shards be its shards, whatever an evaluation has gathered.

    An evaluation has no backward pass, after which FSDP2 would give it back.
    """
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()
