"""Tensor parallelism: ranks that work on the same samples share the heads and hidden units of every block.

As in Megatron-LM (Shoeybi et al. 2019, arXiv:1909.08053, section 3): what makes heads and hidden units is cut by its
outputs, what comes back from them by its inputs, and each of a block's two branches is summed over ranks once in the
forward pass and once in the backward pass. All else, norms, embeddings and the model's head, every rank computes whole,
and alike to the bit.

Shape suffixes: R rows of a weight, P ranks that share a block.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Shard, distribute_tensor

from mmtrain.errors import ConfigError
from mmtrain.nn.attention import Attention
from mmtrain.nn.linear import Linear, linear
from mmtrain.nn.mlp import MLP
from mmtrain.nn.transformer import Block
from mmtrain.sharded import own_part

# Of each whole matrix that Muon asks for, it would warn that two collectives are not one.
logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)


def share_blocks(model: nn.Module, mesh: DeviceMesh) -> None:
    """Cuts the weights of every block over the ranks of a mesh, in place. Names, and whole shapes, stay what they are.

    Args:
        model: The same on all ranks.
        mesh: Of one dimension.

    Raises:
        ConfigError: A block has heads or hidden units that do not divide, or drops attention weights.
    """
    for name, block in model.named_modules():
        if isinstance(block, Block):
            _require_shares(name, block, mesh.size())
            _share_attention(block.attention, mesh)
            _share_mlp(block.mlp, mesh)


def _require_shares(name: str, block: Block, size: int) -> None:
    attention, hidden = block.attention, block.mlp.up.out_features
    for what, count in (("key and value heads", attention.num_kv_heads), ("hidden units", hidden)):
        if count % size:
            raise ConfigError(
                f"{size} ranks cannot share the {count} {what} of {name}",
                where="strategy.tensor_parallel",
                mend=f"set a divisor of {count}",
            )
    if attention.dropout > 0:
        raise ConfigError(
            f"heads of {name} that stand on different ranks would drop the same attention weights",
            where="strategy.tensor_parallel, model.dropout",
            mend="set the model's attention_dropout, or where it has none its dropout, to 0",
        )


def _share_attention(attention: Attention, mesh: DeviceMesh) -> None:
    group = mesh.get_group()
    attention.qkv = _HeadParallel(attention.qkv, mesh, attention.qkv_sizes)
    attention.out = _RowParallel(attention.out, mesh)
    if isinstance(attention.q_norm, nn.RMSNorm) and isinstance(attention.k_norm, nn.RMSNorm):
        attention.q_norm, attention.k_norm = (_HeadNorm(norm, group) for norm in (attention.q_norm, attention.k_norm))
    _take_alike(attention, group)


def _share_mlp(mlp: MLP, mesh: DeviceMesh) -> None:
    mlp.up, mlp.down = _ColumnParallel(mlp.up, mesh), _RowParallel(mlp.down, mesh)
    mlp.gate = _ColumnParallel(mlp.gate, mesh) if mlp.gate is not None else None
    _take_alike(mlp, mesh.get_group())


def _take_alike(branch: nn.Module, group: dist.ProcessGroup) -> None:
    """Has the gradient of what goes into a branch be the sum over the ranks that share it."""

    def enter(module: nn.Module, args: tuple[Tensor, Any]) -> tuple[Any, ...]:
        x, *rest = args
        return (_SumGradient.apply(x, group), *rest)  # type: ignore[no-untyped-call]

    branch.register_forward_pre_hook(enter)


class _ColumnParallel(Linear):
    """Makes this rank's share of the outputs: of a weight ``(out, in)`` it has some rows, Megatron's columns."""

    def __init__(self, whole: nn.Linear, mesh: DeviceMesh) -> None:
        super().__init__(whole.in_features, whole.out_features, bias=whole.bias is not None, device="meta")
        self.weight = _cut(whole.weight, mesh, 0)
        self.bias = _cut(whole.bias, mesh, 0) if whole.bias is not None else None

    def forward(self, input: Tensor) -> Tensor:
        bias = own_part(self.bias) if self.bias is not None else None
        return linear(input, own_part(self.weight), bias)


class _RowParallel(Linear):
    """Takes this rank's share of the inputs, and gives the sum over ranks; the bias is added once, by all alike."""

    def __init__(self, whole: nn.Linear, mesh: DeviceMesh) -> None:
        super().__init__(whole.in_features, whole.out_features, bias=whole.bias is not None, device="meta")
        self.weight, self.bias = _cut(whole.weight, mesh, 1), whole.bias
        self.group = mesh.get_group()

    def forward(self, input: Tensor) -> Tensor:
        total: Tensor = _Sum.apply(linear(input, own_part(self.weight)), self.group)  # type: ignore[no-untyped-call]
        return total if self.bias is None else total + self.bias.to(total.dtype)


class _HeadParallel(_ColumnParallel):
    """Makes the queries, keys and values of this rank's heads.

    They are three matrices in one, of which each rank keeps as many rows as any, one after another, so that the matrix
    is one in a checkpoint. For its use ranks exchange rows: each receives those of its own heads, and no more.

    Args:
        sizes: Rows of queries, keys and values.
    """

    def __init__(self, whole: nn.Linear, mesh: DeviceMesh, sizes: tuple[int, ...]) -> None:
        super().__init__(whole, mesh)
        self.exchange = _Exchange(sizes, mesh.get_group())

    def forward(self, input: Tensor) -> Tensor:
        bias = self.exchange(own_part(self.bias)) if self.bias is not None else None
        return linear(input, self.exchange(own_part(self.weight)), bias)


class _HeadNorm(nn.RMSNorm):
    """A norm of single heads, whose gain all ranks have, each for its own heads."""

    def __init__(self, whole: nn.RMSNorm, group: dist.ProcessGroup) -> None:
        super().__init__(whole.normalized_shape, eps=whole.eps, device="meta")
        self.weight = whole.weight
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        gain = _SumGradient.apply(self.weight, self.group)  # type: ignore[no-untyped-call]
        return F.rms_norm(x, self.normalized_shape, gain, self.eps)


def _cut(parameter: Tensor, mesh: DeviceMesh, dim: int) -> nn.Parameter:
    part = distribute_tensor(parameter.detach(), mesh, [Shard(dim)], src_data_rank=None)
    return nn.Parameter(part, requires_grad=parameter.requires_grad)


class _Exchange(nn.Module):
    """From rows that ranks keep one after another to the rows of each rank's heads, and gradients back.

    Args:
        sizes: Rows of matrices that stand one above the other; of each, P ranks use equal parts, in their order.
        group: The ranks.
    """

    order: Tensor

    def __init__(self, sizes: tuple[int, ...], group: dist.ProcessGroup) -> None:
        super().__init__()
        self.group = group
        ranks, own = dist.get_world_size(group), dist.get_rank(group)
        user_R = torch.cat([torch.arange(size) // (size // ranks) for size in sizes])
        user_PR = user_R.view(ranks, -1)
        counts_PP = torch.stack([(user_PR == rank).sum(dim=1) for rank in range(ranks)], dim=1)  # from, to
        self.register_buffer("order", user_PR[own].argsort(stable=True), persistent=False)
        self.sent: list[int] = counts_PP[own].tolist()
        self.received: list[int] = counts_PP[:, own].tolist()

    def forward(self, kept: Tensor) -> Tensor:
        """The rows of this rank's heads, ``(R / P, ...)`` as those it keeps; their order is that of the whole."""
        used: Tensor = _Exchanged.apply(kept, self)  # type: ignore[no-untyped-call]
        return used


class _Exchanged(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kept: Tensor, exchange: _Exchange) -> Tensor:
        ctx.exchange = exchange
        used = torch.empty_like(kept)
        dist.all_to_all_single(used, kept[exchange.order], exchange.received, exchange.sent, group=exchange.group)
        return used

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,), exchange = grads, ctx.exchange
        came_back = torch.empty_like(grad)
        dist.all_to_all_single(came_back, grad.contiguous(), exchange.sent, exchange.received, group=exchange.group)
        return torch.empty_like(came_back).index_copy_(0, exchange.order, came_back), None


class _SumGradient(torch.autograd.Function):
    """What all ranks have alike; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _sum(grads[0], ctx.group), None


class _Sum(torch.autograd.Function):
    """The sum of what ranks have; its gradient is alike on all of them, and that of each part."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        return _sum(x, group)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def _sum(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    total = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total, group=group)
    return total
