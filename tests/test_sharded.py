from __future__ import annotations

import torch
import torch.distributed as dist
from gloo_ranks import RunRanks
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from mmtrain.sharded import by_mesh, counts_here, is_sharded, own_part, own_region, reshard, total_norm, whole

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


def on_meshes() -> tuple[Tensor, Tensor, list[int], list[Tensor]]:
    """On two by two ranks: the norm of what is spread over some and over all, whole, and a scalar, and its parts."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    torch.manual_seed(0)
    tensors = [torch.randn(5, 3), torch.randn(4, 6), torch.randn(3, 3), torch.randn(2, 2), torch.randn(())]
    spread = [
        distribute_tensor(tensors[0], mesh, [Shard(0), Shard(1)]),
        distribute_tensor(tensors[1], mesh, [Replicate(), Shard(1)]),
        distribute_tensor(tensors[2], mesh["data"], [Shard(0)]),
        *tensors[3:],
    ]
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    counted = [own_part(tensor).flatten() for tensor in spread if counts_here(tensor)]
    return total_norm(spread), flat.norm(), [len(group) for group in by_mesh(spread)], counted


def test_a_norm_counts_every_element_once_wherever_it_is(run_ranks: RunRanks) -> None:
    results = run_ranks(4, on_meshes)
    for norm, expected, groups, _ in results:
        assert torch.equal(norm, results[0][0]), "to the bit on all ranks"
        torch.testing.assert_close(norm, expected, rtol=1e-6, atol=0)
        assert groups == [2, 1, 2]
    counted = torch.cat([part for *_, parts in results for part in parts])
    assert len(counted) == 15 + 24 + 9 + 4 + 1
