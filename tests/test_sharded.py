from __future__ import annotations

import torch
import torch.distributed as dist
from gloo_ranks import RunRanks
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from mmtrain.sharded import is_sharded, own_part, own_region, reshard, whole

WHOLE = torch.arange(10.0).view(5, 2)


def parts() -> list[tuple[Tensor, Tensor, bool]]:
    """This rank's part of a tensor, by its region and by itself, and whether all parts make the whole."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    found = []
    for placement in (Shard(0), Shard(1), Replicate()):
        tensor = distribute_tensor(WHOLE, mesh, [placement])
        assert is_sharded(tensor)
        part = own_part(tensor)
        found.append((WHOLE[own_region(tensor)], part.clone(), whole(part, tensor).equal(WHOLE)))
    return found


def test_a_part_stands_where_its_region_says_and_all_make_the_whole(run_ranks: RunRanks) -> None:
    for ranks in (2, 3):
        for found in run_ranks(ranks, parts):
            assert all(by_region.equal(part) and complete for by_region, part, complete in found)


def test_a_tensor_that_is_not_sharded_is_its_own_part() -> None:
    assert not is_sharded(WHOLE)
    assert own_part(WHOLE) is WHOLE
    assert whole(WHOLE, WHOLE) is WHOLE
    assert WHOLE[own_region(WHOLE)].equal(WHOLE)


def evaluated() -> tuple[bool, bool]:
    model = nn.Linear(4, 4)
    fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)), reshard_after_forward=False)
    with torch.no_grad():
        model(torch.ones(1, 4))
    gathered = not is_sharded(model.weight)
    reshard(model)
    return gathered, is_sharded(model.weight)


def test_parameters_are_shards_again_after_an_evaluation(run_ranks: RunRanks) -> None:
    assert run_ranks(2, evaluated) == [(True, True)] * 2
    model = nn.Linear(2, 2)
    reshard(model)  # nothing to do
    assert not is_sharded(model.weight)
