"""Tensors that ranks hold in parts (PyTorch's DTensor), and modules that gather them (FSDP2)."""

from __future__ import annotations

from torch import Tensor, nn
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


def reshard(module: nn.Module) -> None:
    """Has the parameters of a module that FSDP2 shards be its shards, whatever an evaluation has gathered.

    An evaluation has no backward pass, after which FSDP2 would give it back.
    """
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()
