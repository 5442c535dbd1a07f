from __future__ import annotations

import pytest
import torch
from gloo_ranks import RunRanks
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mmtrain import distributed
from mmtrain.nn.accumulate import accumulate

X = torch.randn(12, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Net(nn.Module):
    """Sums a loss over its input in parts; counts the forward passes of its layers."""

    def __init__(self, part: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1)).double()
        self.locked = nn.Linear(5, 1).double().requires_grad_(False)
        self.part = part
        self.passes = 0

    def loss_of(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        self.passes += 1
        y = self.layers(x) + self.locked(x)
        return y.square().sum() / len(X), {"sum": y.sum(), "rows": torch.tensor(len(x))}

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return accumulate(self.loss_of, x.split(self.part), list(self.parameters()))


def gradients(net: Net) -> list[Tensor]:
    return [parameter.grad for parameter in net.layers.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("part", [1, 4, 5])
def test_parts_have_the_loss_sums_and_gradient_of_the_whole(part: int) -> None:
    whole, parts = Net(12), Net(part)
    outcomes = [net(X) for net in (whole, parts)]
    for loss, _ in outcomes:
        (3 * loss).backward()  # as a loss scaler would
    torch.testing.assert_close(outcomes[1], outcomes[0], rtol=1e-12, atol=1e-12)
    assert len(gradients(parts)) == 4
    torch.testing.assert_close(gradients(parts), gradients(whole), rtol=1e-12, atol=1e-12)
    assert outcomes[1][1]["rows"] == 12
    assert parts.locked.weight.grad is None


def test_each_part_runs_once() -> None:
    net = Net(3)
    net(X)[0].backward()
    assert net.passes == 4


def test_no_gradient_is_taken_where_none_is_wanted() -> None:
    with torch.no_grad():
        loss, _ = Net(4)(X)
    assert not loss.requires_grad


def gradients_of_rank(part: int) -> list[Tensor]:
    net = Net(part)
    wrapped = DistributedDataParallel(net)  # its hooks live as long as it does
    loss, _ = wrapped(X.chunk(distributed.world_size())[distributed.rank()])
    (loss * distributed.world_size()).backward()
    return gradients(net)


def test_data_parallel_ranks_meet_each_gradient_once(run_ranks: RunRanks) -> None:
    whole = Net(12)
    whole(X)[0].backward()
    for rank in run_ranks(2, gradients_of_rank, 2):
        torch.testing.assert_close(rank, gradients(whole), rtol=1e-12, atol=1e-12)
