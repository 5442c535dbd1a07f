from __future__ import annotations

import types
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from gloo_ranks import RunRanks
from torch import Tensor

from mmtrain import distributed
from mmtrain.data.download import Archive, fetch, read_member
from mmtrain.nn.contrastive import clip_loss

# Read, never installed: it would pull torchvision.
OPEN_CLIP = Archive(
    "open_clip_torch", "3.3.0", sha256="c549ad5ed6bfc119cc11105033c0a2b9d7a2a4afeb40a58a09aab3da1a0043ce"
)


class Pairs(NamedTuple):
    image: Tensor
    text: Tensor
    log_scale: Tensor
    weight: Tensor


def pairs(fillers: tuple[int, ...] = (), n: int = 8, width: int = 6, log_scale: float = 2.5) -> Pairs:
    generator = torch.Generator().manual_seed(0)
    image, text = (F.normalize(torch.randn(n, width, generator=generator), dim=-1) for _ in range(2))
    weight = torch.ones(n)
    weight[list(fillers)] = 0
    return Pairs(image, text, torch.tensor(log_scale), weight)


class Result(NamedTuple):
    loss: Tensor
    image: Tensor
    text: Tensor
    log_scale: Tensor


def differentiate(given: Pairs, part: slice = slice(None), *, autocast: bool = False) -> Result:
    leaves = [x.clone().requires_grad_() for x in (given.image[part], given.text[part], given.log_scale)]
    image, text, log_scale = leaves
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = clip_loss(image, text, log_scale.exp(), given.weight[part])
    return Result(loss.detach(), *torch.autograd.grad(loss, leaves))


def naive(given: Pairs) -> Result:
    """The loss as in CLIP's figure 3, over the samples of weight 1, in fp64."""
    real = given.weight > 0
    leaves = [x.double().requires_grad_() for x in (given.image, given.text, given.log_scale)]
    image, text, log_scale = leaves
    logits = log_scale.exp() * image[real] @ text[real].T
    labels = torch.arange(len(logits))
    loss = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
    return Result(loss.detach(), *torch.autograd.grad(loss, leaves))


def assert_same(result: Result, expected: Result, tolerance: float = 1e-6) -> None:
    for name, x, y in zip(Result._fields, result, expected, strict=True):
        torch.testing.assert_close(x.double(), y.double(), atol=tolerance, rtol=tolerance, msg=lambda m, n=name: n + m)


@pytest.mark.parametrize("log_scale", [0.0, 2.5, 4.605])
def test_loss_and_gradients_are_those_of_the_symmetric_cross_entropy(log_scale: float) -> None:
    given = pairs(log_scale=log_scale)
    # fp32 logits of a scale of 100 are exact to about 4e-6
    assert_same(differentiate(given), naive(given), tolerance=1e-6 if log_scale < 4 else 1e-5)


def test_loss_of_indistinguishable_pairs_is_the_logarithm_of_their_number() -> None:
    same = F.normalize(torch.ones(8, 4), dim=-1)
    loss = clip_loss(same, same, torch.tensor(100.0), torch.ones(8))
    assert loss.item() == pytest.approx(torch.tensor(8.0).log().item(), abs=1e-5)


def test_filler_changes_nothing() -> None:
    given = pairs(fillers=(2, 7))
    result = differentiate(given)
    assert_same(result, naive(given))
    assert not result.image[[2, 7]].any()
    assert not result.text[[2, 7]].any()


def test_loss_is_fp32_under_autocast() -> None:
    given = pairs()
    assert_same(differentiate(given, autocast=True), naive(given))


def share_of(given: Pairs) -> slice:
    size = len(given.weight) // distributed.world_size()
    return slice(distributed.rank() * size, (distributed.rank() + 1) * size)


def differentiate_in_a_rank(given: Pairs) -> tuple[Tensor, ...]:
    return tuple(differentiate(given, share_of(given)))


def mean_over_ranks(results: list[tuple[Tensor, ...]]) -> Result:
    """What data-parallel training makes of the gradients: each feature is one rank's, the temperature is all's."""
    loss, image, text, log_scale = zip(*results, strict=True)
    world_size = len(results)
    return Result(
        torch.stack(loss).mean(),
        torch.cat(image) / world_size,
        torch.cat(text) / world_size,
        torch.stack(log_scale).mean(),
    )


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize("fillers", [(), (1,), (3, 4, 5, 6, 7)], ids=["none", "one", "whole ranks"])
def test_any_number_of_ranks_gives_the_gradients_of_the_whole_batch(
    run_ranks: RunRanks, world_size: int, fillers: tuple[int, ...]
) -> None:
    given = pairs(fillers)
    results = run_ranks(world_size, differentiate_in_a_rank, given)
    assert_same(mean_over_ranks(results), naive(given))


def differentiate_open_clip(given: Pairs, source: str) -> tuple[Tensor, ...]:
    open_clip = types.ModuleType("open_clip_loss")
    exec(compile(source, "open_clip/loss.py", "exec"), open_clip.__dict__)
    loss_of = open_clip.ClipLoss(
        local_loss=True, gather_with_grad=True, rank=distributed.rank(), world_size=distributed.world_size()
    )
    part = share_of(given)
    leaves = [x.clone().requires_grad_() for x in (given.image[part], given.text[part], given.log_scale)]
    image, text, log_scale = leaves
    loss = loss_of(image, text, log_scale.exp())
    return (loss.detach(), *torch.autograd.grad(loss, leaves))


def test_every_rank_has_the_loss_and_gradients_of_open_clip(run_ranks: RunRanks) -> None:
    """open_clip averages over a rank's rows: N / W of them, so that the factor to our W / N is 1, rank by rank."""
    given = pairs()
    source = read_member(fetch(OPEN_CLIP), "open_clip/loss.py").decode()
    theirs = run_ranks(2, differentiate_open_clip, given, source)
    ours = run_ranks(2, differentiate_in_a_rank, given)
    for their, our in zip(theirs, ours, strict=True):
        assert_same(Result(*our), Result(*their))
