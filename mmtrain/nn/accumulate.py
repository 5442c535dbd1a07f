"""A sum of losses over parts of a batch, of which one part at a time is on the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from mmtrain.sharded import is_sharded

Part = TypeVar("Part")
Sums = dict[str, Tensor]


def accumulate(
    loss_of: Callable[[Part], tuple[Tensor, Sums]], parts: Sequence[Part], parameters: Sequence[nn.Parameter]
) -> tuple[Tensor, Sums]:
    """The sum of the losses of all parts, whose gradient was taken part by part.

    The graph of a part is gone before the next one starts, as with gradient accumulation, and nothing is computed
    twice. To the outside, it is one node of the graph: its backward pass hands each parameter the sum of its gradients,
    so that whatever waits for gradients, such as data-parallel training, meets each of them once. It costs one more
    copy of the gradients.

    Args:
        loss_of: The loss of a part, normalised such that losses add up, and other sums to report.
        parts: The parts; a single one is passed through as it is.
        parameters: What the losses depend on, and gradients are wanted of.

    Returns:
        The loss, and the sums without gradient.
    """
    if len(parts) == 1 or not torch.is_grad_enabled():
        return _add([loss_of(part) for part in parts])
    sums: Sums = {}

    def graded(part: Part) -> tuple[Tensor, Sums]:
        torch.clear_autocast_cache()  # it would keep the graph of the part before
        return loss_of(part)

    trained = [parameter for parameter in parameters if parameter.requires_grad]
    loss: Tensor = _Accumulated.apply(graded, parts, trained, sums, *trained)  # type: ignore[no-untyped-call]
    return loss, sums


class _Accumulated(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        loss_of: Callable[[Any], tuple[Tensor, Sums]],
        parts: Sequence[Any],
        parameters: Sequence[nn.Parameter],
        sums: Sums,
        *inputs: Tensor,
    ) -> Tensor:
        gradients: list[Tensor | None] = [None] * len(parameters)
        outcomes = []
        for part in parts:
            with torch.enable_grad():
                loss, part_sums = loss_of(part)
                new = _gradients(loss, parameters)
            outcomes.append((loss.detach(), part_sums))
            gradients = [_sum(old, more) for old, more in zip(gradients, new, strict=True)]
        ctx.gradients = gradients
        total, total_sums = _add(outcomes)
        sums.update(total_sums)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (grad,) = grads
        scaled = (None if gradient is None else gradient * grad for gradient in ctx.gradients)
        return (None, None, None, None, *scaled)


def _gradients(loss: Tensor, parameters: Sequence[nn.Parameter]) -> Sequence[Tensor | None]:
    """Gradients of what the parameters are now. FSDP2's stand for others that are gone after the loss was computed."""
    if not any(map(is_sharded, parameters)):
        return torch.autograd.grad(loss, parameters, allow_unused=True)
    before = _exchange(parameters, [None] * len(parameters))
    loss.backward()  # type: ignore[no-untyped-call]
    return _exchange(parameters, before)


def _exchange(parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Sets the parameters' gradients; returns those of before."""
    before = [parameter.grad for parameter in parameters]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    return before


def _sum(old: Tensor | None, more: Tensor | None) -> Tensor | None:
    if old is None or more is None:
        return more if old is None else old
    return old.add_(more)


def _add(outcomes: Sequence[tuple[Tensor, Sums]]) -> tuple[Tensor, Sums]:
    losses, sums = zip(*outcomes, strict=True)
    total = losses[0]
    for loss in losses[1:]:
        total = total + loss
    return total, {name: torch.stack([part[name].detach() for part in sums]).sum(dim=0) for name in sums[0]}
