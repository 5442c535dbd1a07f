from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from contrastive_case import (
    Result,
    assert_same,
    differentiate,
    differentiate_share,
    in_fp64,
    mean_over_ranks,
    open_clip_module,
    open_clip_source,
    pairs,
)
from gloo_ranks import RunRanks
from torch import Tensor

from mmtrain import distributed
from mmtrain.nn.siglip import siglip_loss

tiled = partial(siglip_loss, tile=3)


def naive(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, weight: Tensor) -> Tensor:
    """SigLIP's algorithm 1, over the samples of weight 1."""
    real = weight > 0
    logits = scale * image[real] @ text[real].T + bias
    labels = 2 * torch.eye(len(logits), dtype=logits.dtype) - 1
    return -F.logsigmoid(labels * logits).sum() / len(logits)


@pytest.mark.parametrize("tile", [1, 3, 8, 256])
@pytest.mark.parametrize("log_scale", [0.0, 2.5, 4.605])
def test_loss_and_gradients_are_those_of_the_pairwise_formula(log_scale: float, tile: int) -> None:
    given = pairs(log_scale=log_scale)
    result = differentiate(partial(siglip_loss, tile=tile), given)
    # fp32 logits of a scale of 100 are exact to about 4e-6
    assert_same(result, in_fp64(naive, given), tolerance=1e-6 if log_scale < 4 else 1e-5)


@pytest.mark.parametrize("n", [1024, pytest.param(4096, marks=pytest.mark.slow)])
def test_a_large_batch_has_the_loss_and_gradients_of_the_whole_matrix(n: int) -> None:
    given = pairs(fillers=(0, 1000, n - 1), n=n, width=16, log_scale=2.3, dtype=torch.float64)
    result, expected = differentiate(partial(siglip_loss, tile=300), given), differentiate(naive, given)
    for name, x, y in zip(Result._fields, result, expected, strict=True):
        assert (x - y).norm() <= 1e-9 * y.norm(), name


def test_loss_at_the_published_start_is_that_of_calling_every_pair_wrong() -> None:
    """Random features, scale 10, bias -10: 10 for the right pair, next to nothing for the others."""
    given = pairs(n=64, width=256)
    loss = siglip_loss(given.image, given.text, torch.tensor(10.0), torch.tensor(-10.0), given.weight)
    assert loss.item() == pytest.approx(10.0, rel=0.05)


def test_filler_changes_nothing() -> None:
    given = pairs(fillers=(2, 7))
    result = differentiate(tiled, given)
    assert_same(result, in_fp64(naive, given))
    assert not result.image[[2, 7]].any()
    assert not result.text[[2, 7]].any()


def test_loss_is_fp32_under_autocast() -> None:
    given = pairs()
    assert_same(differentiate(tiled, given, autocast=True), in_fp64(naive, given))


def test_a_feature_that_is_no_number_makes_the_loss_none() -> None:
    given = pairs()
    given.image[3, 0] = torch.nan
    assert differentiate(tiled, given).loss.isnan()


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize("fillers", [(), (1,), (3, 4, 5, 6, 7)], ids=["none", "one", "whole ranks"])
def test_any_number_of_ranks_gives_the_gradients_of_the_whole_batch(
    run_ranks: RunRanks, world_size: int, fillers: tuple[int, ...]
) -> None:
    given = pairs(fillers, dtype=torch.float64)
    results = run_ranks(world_size, differentiate_share, tiled, given)
    assert_same(mean_over_ranks(results), differentiate(naive, given), tolerance=1e-9)


def open_clip(source: str, image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, weight: Tensor) -> Tensor:
    loss_of = open_clip_module(source).SigLipLoss(
        rank=distributed.rank(), world_size=distributed.world_size(), dist_impl="gather"
    )
    loss: Tensor = loss_of(image, text, scale, bias)
    return loss


def test_every_rank_has_the_loss_and_gradients_of_open_clip(run_ranks: RunRanks) -> None:
    given = pairs()
    theirs = run_ranks(2, differentiate_share, partial(open_clip, open_clip_source()), given)
    ours = run_ranks(2, differentiate_share, tiled, given)
    for their, our in zip(theirs, ours, strict=True):
        assert_same(Result(*our), Result(*their))
