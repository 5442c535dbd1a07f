"""Where a model is cut for FSDP2: the one place that knows that models are made of the Transformer's blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)

from mmtrain.nn.transformer import Block


@runtime_checkable
class SeveralForwards(Protocol):
    """A model that objectives call by other methods than ``forward``."""

    forward_methods: tuple[str, ...]
    """Their names."""


@dataclass(frozen=True)
class Policy:
    """How blocks are gathered, reduced and kept.

    Attributes:
        reshard_after_forward: Whether a block's weights are given back between its forward and backward pass.
        gather_dtype: Type in which blocks are gathered, but for their norms; None is their own.
        offload: Whether shards of weights, gradients and the optimizer's state are kept in the host's memory.
    """

    reshard_after_forward: bool
    gather_dtype: torch.dtype | None
    offload: bool

    def offload_policy(self) -> OffloadPolicy:
        """PyTorch's."""
        return CPUOffloadPolicy(pin_memory=torch.cuda.is_available()) if self.offload else OffloadPolicy()


def shard(model: nn.Module, mesh: DeviceMesh, policy: Policy) -> list[nn.Parameter]:
    """Shards the parameters of a model in place, a group for each block and one for all that is outside of them.

    Blocks are gathered for their own time. What is outside, embeddings, heads and last norms, is gathered with the
    first call of the model and stays until the backward pass is over, since a head may be the embedding. Parameters of
    no dimension, such as CLIP's temperature, cannot be cut, and stay whole on every rank.

    Args:
        model: On any device; shards go to the mesh's.
        mesh: One dimension, or two of which the first one replicates.
        policy: Of the blocks. The rest is gathered in its own type.

    Returns:
        The parameters that stay whole: whoever trains them has to average their gradients over ranks.
    """
    for parameter in model.parameters():
        parameter.data = parameter.data.contiguous()  # FSDP2 takes no other layout, such as channels-last
    whole = [parameter for parameter in model.parameters() if parameter.ndim == 0]
    offload = policy.offload_policy()
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    reshard = policy.reshard_after_forward
    for block in blocks:
        if policy.gather_dtype is not None:
            # Autocast computes norms in fp32, with gains in fp32.
            norms: list[nn.Module] = [part for part in block.modules() if isinstance(part, nn.LayerNorm | nn.RMSNorm)]
            fully_shard(norms, mesh=mesh, reshard_after_forward=reshard, offload_policy=offload)
        # Autocast decides of inputs, and gradients are summed in fp32, as under any other strategy.
        numerics = MixedPrecisionPolicy(policy.gather_dtype, torch.float32, cast_forward_inputs=False)
        fully_shard(block, mesh=mesh, mp_policy=numerics, reshard_after_forward=reshard, offload_policy=offload)
    fully_shard(model, mesh=mesh, reshard_after_forward=False, offload_policy=offload, ignored_params=set(whole))
    if isinstance(model, SeveralForwards):
        for name in model.forward_methods:
            register_fsdp_forward_method(model, name)
    return whole
