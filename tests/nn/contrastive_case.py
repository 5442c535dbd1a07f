"""What tests of contrastive losses share: pairs with filler, parts of them on ranks, and losses to compare."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmtrain import distributed
from mmtrain.data.download import Archive, fetch, read_member

# Read, never installed: it would pull torchvision.
OPEN_CLIP = Archive(
    "open_clip_torch", "3.3.0", sha256="c549ad5ed6bfc119cc11105033c0a2b9d7a2a4afeb40a58a09aab3da1a0043ce"
)


class Pairs(NamedTuple):
    image: Tensor
    text: Tensor
    log_scale: Tensor
    bias: Tensor
    weight: Tensor

    def part(self, rows: slice) -> Pairs:
        return self._replace(image=self.image[rows], text=self.text[rows], weight=self.weight[rows])

    def share(self) -> Pairs:
        """This rank's."""
        size = len(self.weight) // distributed.world_size()
        return self.part(slice(distributed.rank() * size, (distributed.rank() + 1) * size))


class Result(NamedTuple):
    """A loss and its gradients."""

    loss: Tensor
    image: Tensor
    text: Tensor
    log_scale: Tensor
    bias: Tensor


Loss = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
"""Of images, texts, scale, bias and weights."""


def pairs(
    fillers: tuple[int, ...] = (),
    n: int = 8,
    width: int = 6,
    log_scale: float = 2.5,
    dtype: torch.dtype = torch.float32,
) -> Pairs:
    generator = torch.Generator().manual_seed(0)
    image, text = (F.normalize(torch.randn(n, width, generator=generator, dtype=dtype), dim=-1) for _ in range(2))
    weight = torch.ones(n)
    weight[list(fillers)] = 0
    return Pairs(image, text, torch.tensor(log_scale, dtype=dtype), torch.tensor(-3.0, dtype=dtype), weight)


def differentiate(loss_of: Loss, given: Pairs, *, autocast: bool = False) -> Result:
    """The loss of this process, and its gradients; those that it does not depend on are 0."""
    leaves = [x.clone().requires_grad_() for x in given[:4]]
    image, text, log_scale, bias = leaves
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = loss_of(image, text, log_scale.exp(), bias, given.weight)
    return Result(loss.detach(), *torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True))


def differentiate_share(loss_of: Loss, given: Pairs) -> tuple[Tensor, ...]:
    """`differentiate` in a rank, of its share."""
    return tuple(differentiate(loss_of, given.share()))


def in_fp64(loss_of: Loss, given: Pairs) -> Result:
    return differentiate(loss_of, Pairs(*(x.double() for x in given)))


def mean_over_ranks(results: list[tuple[Tensor, ...]]) -> Result:
    """What data-parallel training makes of the gradients: each feature is one rank's, the scalars are all's."""
    loss, image, text, *scalars = zip(*results, strict=True)
    means = [torch.stack(scalar).mean() for scalar in scalars]
    return Result(torch.stack(loss).mean(), torch.cat(image) / len(results), torch.cat(text) / len(results), *means)


def assert_same(result: Result, expected: Result, tolerance: float = 1e-6) -> None:
    for name, x, y in zip(Result._fields, result, expected, strict=True):
        torch.testing.assert_close(x.double(), y.double(), atol=tolerance, rtol=tolerance, msg=lambda m, n=name: n + m)


def open_clip_source() -> str:
    return read_member(fetch(OPEN_CLIP), "open_clip/loss.py").decode()


def open_clip_module(source: str) -> types.ModuleType:
    """The file of open_clip's losses, as a module."""
    module = types.ModuleType("open_clip_loss")
    exec(compile(source, "open_clip/loss.py", "exec"), module.__dict__)
    return module
