"""A training step as it is timed: forward, loss, backward, clipped gradient, fused AdamW."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

Batch = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """How all contenders of a race run.

    Attributes:
        device: ``cpu`` or ``cuda``.
        bf16: Whether the forward pass is autocast to bfloat16.
        compile: Whether models are compiled: mmtrain's block by block, a peer's as a whole.
    """

    device: str
    bf16: bool
    compile: bool

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device, torch.bfloat16, enabled=self.bf16)

    def move(self, batch: Batch) -> Batch:
        return {name: field.to(self.device) if isinstance(field, Tensor) else field for name, field in batch.items()}


class Size(NamedTuple):
    """Of a Transformer."""

    d_model: int
    num_layers: int
    num_heads: int


BASE = Size(768, 12, 12)
TINY = Size(64, 2, 2)
"""To see that a race works; its figures mean nothing."""


class Contender(NamedTuple):
    """Who takes part.

    Attributes:
        name: With the version.
        step: Does one training step.
        units: What a step gets through, on average: images or tokens.
    """

    name: str
    step: Callable[[], None]
    units: float


class Race(NamedTuple):
    """Contenders over the same shapes.

    Attributes:
        name: What is raced.
        unit: Of the rate: images, tokens.
        shape: The sizes, for the table.
        contenders: mmtrain's first.
        flops: Of a training step of mmtrain's, by the formula in the documentation of `Transformer`.
        target: Least ratio to the first peer.
    """

    name: str
    unit: str
    shape: str
    contenders: list[Contender]
    flops: float
    target: float


def training_step(
    model: nn.Module, loss_of: Callable[[Batch], Tensor], batches: Sequence[Batch], setting: Setting
) -> Callable[[], None]:
    """A step on the next of ``batches``, again and again."""
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    endless: Iterator[Batch] = itertools.cycle([setting.move(batch) for batch in batches])

    def step() -> None:
        with setting.autocast():
            loss = loss_of(next(endless))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()

    return step


def compiled(model: nn.Module, setting: Setting) -> nn.Module:
    """A peer's model, compiled as a whole where that is asked for."""
    if setting.compile:
        model.compile()
    return model.to(setting.device)
