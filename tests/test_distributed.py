from __future__ import annotations

import torch
from gloo_ranks import RunRanks
from torch import Tensor

from mmtrain import distributed


def gather_in_a_rank() -> tuple[Tensor, Tensor | None]:
    rank = distributed.rank()
    x = (torch.arange(4.0).view(2, 2) + 10 * rank).requires_grad_()
    gathered = distributed.all_gather(x)
    factors = torch.arange(gathered.numel(), dtype=torch.float32).view_as(gathered)
    (gathered * factors * (rank + 1)).sum().backward()
    return gathered.detach(), x.grad


def test_all_gather_keeps_the_order_of_ranks_and_sums_their_gradients(run_ranks: RunRanks) -> None:
    results = run_ranks(3, gather_in_a_rank)
    whole = torch.cat([torch.arange(4.0).view(2, 2) + 10 * rank for rank in range(3)])
    gradient = torch.arange(12.0).view(6, 2) * (1 + 2 + 3)  # rank r's loss weighs r + 1
    for rank, (gathered, own) in enumerate(results):
        assert torch.equal(gathered, whole)
        assert torch.equal(own, gradient[2 * rank : 2 * rank + 2])


def test_all_gather_without_a_group_is_the_identity() -> None:
    x = torch.randn(3, 2, requires_grad=True)
    distributed.all_gather(x).square().sum().backward()
    assert torch.equal(distributed.all_gather(x), x)
    assert torch.equal(x.grad, 2 * x)
    assert distributed.all_gather_object("a") == ["a"]
    assert distributed.world_size() == 1


def objects_in_a_rank() -> tuple[list[int], str, bool, bool, Tensor]:
    rank = distributed.rank()
    ones = torch.ones(2)
    summed = distributed.all_reduce_sum(ones)
    assert ones.sum() == 2, "the argument stays as it is"
    return (
        distributed.all_gather_object(rank),
        distributed.broadcast_object(f"from {rank}", src=1),
        distributed.any_rank(rank == 1),
        distributed.any_rank(False),
        summed,
    )


def test_all_ranks_agree(run_ranks: RunRanks) -> None:
    for objects, word, some, none, summed in run_ranks(2, objects_in_a_rank):
        assert objects == [0, 1]
        assert word == "from 1"
        assert (some, none) == (True, False)
        assert torch.equal(summed, torch.full((2,), 2.0))


def shares_in_a_rank() -> tuple[int, int, list[int], float, float, Tensor, Tensor | None]:
    distributed.join_tensor_parallel(2)
    rank, group = distributed.rank(), distributed.data_parallel_group()
    x = torch.full((1,), float(rank), requires_grad=True)
    gathered = distributed.all_gather(x)
    (gathered * torch.tensor([1.0, 10.0]) * (rank + 1)).sum().backward()
    return (
        distributed.data_parallel_rank(),
        distributed.data_parallel_size(),
        distributed.all_gather_object(rank, group),
        float(distributed.all_reduce_sum(torch.tensor(float(rank)), group)),
        float(distributed.all_reduce_sum(torch.tensor(float(rank)))),
        gathered.detach(),
        x.grad,
    )


def test_ranks_that_share_blocks_count_as_one(run_ranks: RunRanks) -> None:
    for rank, (share, shares, objects, summed, over_all, gathered, gradient) in enumerate(
        run_ranks(4, shares_in_a_rank)
    ):
        others = [0, 2] if rank in (0, 2) else [1, 3]  # one of each pair
        assert (share, shares) == (rank // 2, 2)
        assert objects == gathered.tolist() == others
        assert (summed, over_all) == (sum(others), 6)
        assert gradient.tolist() == [[1, 10][share] * sum(other + 1 for other in others)]


def test_without_sharing_every_rank_has_its_share(run_ranks: RunRanks) -> None:
    assert run_ranks(2, lone_share) == [(0, 2, None), (1, 2, None)]


def lone_share() -> tuple[int, int, object]:
    distributed.join_tensor_parallel(2)
    distributed.join_tensor_parallel(1)
    return distributed.data_parallel_rank(), distributed.data_parallel_size(), distributed.data_parallel_group()
