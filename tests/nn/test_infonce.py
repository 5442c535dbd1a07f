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
from torch.utils._python_dispatch import TorchDispatchMode

from mmtrain import distributed
from mmtrain.nn.infonce import infonce_loss


def tiled(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, weight: Tensor, *, tile: int = 3) -> Tensor:
    return infonce_loss(image, text, scale, weight, tile=tile)


def naive(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, weight: Tensor) -> Tensor:
    """The loss as in CLIP's figure 3, over the samples of weight 1."""
    real = weight > 0
    logits = scale * image[real] @ text[real].T
    labels = torch.arange(len(logits))
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


@pytest.mark.parametrize("tile", [1, 3, 8, 256])
@pytest.mark.parametrize("log_scale", [0.0, 2.5, 4.605])
def test_loss_and_gradients_are_those_of_the_symmetric_cross_entropy(log_scale: float, tile: int) -> None:
    given = pairs(log_scale=log_scale)
    # fp32 logits of a scale of 100 are exact to about 4e-6
    result = differentiate(partial(tiled, tile=tile), given)
    assert_same(result, in_fp64(naive, given), tolerance=1e-6 if log_scale < 4 else 1e-5)


@pytest.mark.parametrize("n", [1024, pytest.param(4096, marks=pytest.mark.slow)])
def test_a_large_batch_has_the_loss_and_gradients_of_the_whole_matrix(n: int) -> None:
    given = pairs(fillers=(0, 1000, n - 1), n=n, width=16, log_scale=4.0, dtype=torch.float64)
    result, expected = differentiate(partial(tiled, tile=300), given), differentiate(naive, given)
    for name, x, y in zip(Result._fields, result, expected, strict=True):
        assert (x - y).norm() <= 1e-12 * y.norm(), name
    single = differentiate(partial(tiled, tile=300), given._replace(image=given.image.float(), text=given.text.float()))
    assert single.loss.item() == pytest.approx(expected.loss.item(), rel=1e-6)


class Largest(TorchDispatchMode):
    """Elements of the largest result of any operation."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.elements = max(self.elements, result.numel())
        return result


def test_no_tensor_is_larger_than_a_tile_of_rows() -> None:
    given = pairs(n=512)
    for loss, expected in ((naive, 512 * 512), (partial(tiled, tile=16), 16 * 512)):
        with Largest() as largest:
            differentiate(loss, given)
        assert largest.elements == expected


def test_loss_of_indistinguishable_pairs_is_the_logarithm_of_their_number() -> None:
    same = F.normalize(torch.ones(8, 4), dim=-1)
    loss = infonce_loss(same, same, torch.tensor(100.0), torch.ones(8))
    assert loss.item() == pytest.approx(torch.tensor(8.0).log().item(), abs=1e-5)


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
    assert_same(mean_over_ranks(results), differentiate(naive, given), tolerance=1e-12)


def open_clip(source: str, image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, weight: Tensor) -> Tensor:
    loss_of = open_clip_module(source).ClipLoss(
        local_loss=True, gather_with_grad=True, rank=distributed.rank(), world_size=distributed.world_size()
    )
    loss: Tensor = loss_of(image, text, scale)
    return loss


def test_every_rank_has_the_loss_and_gradients_of_open_clip(run_ranks: RunRanks) -> None:
    """open_clip averages over a rank's rows: N / W of them, so that the factor to our W / N is 1, rank by rank.

    The scale's gradient is the same in the mean only: our ranks each take all texts' losses against their images.
    """
    given = pairs()
    theirs = run_ranks(2, differentiate_share, partial(open_clip, open_clip_source()), given)
    ours = run_ranks(2, differentiate_share, tiled, given)
    assert_same(mean_over_ranks(ours), mean_over_ranks(theirs))
    for their, our in zip(theirs, ours, strict=True):
        for x, y in zip(their[:3], our[:3], strict=True):
            torch.testing.assert_close(x, y, atol=1e-6, rtol=1e-6)
