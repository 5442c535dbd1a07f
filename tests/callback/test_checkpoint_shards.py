"""A checkpoint in shards holds what a file holds, and each can be read as the other, by any number of ranks."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from gloo_ranks import RunRanks
from tiny_run import differences
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from mmtrain.callback.checkpoint_io import AtomicCheckpointIO, checkpoint_path, read_record, read_weights, why_torn
from mmtrain.callback.checkpoint_shards import Content
from mmtrain.callback.checkpoint_writer import Save, Writer
from mmtrain.optim.adamw import AdamW
from mmtrain.optim.muon import Muon
from mmtrain.optim.named import save_by_name
from mmtrain.optim.schedule import Constant


class Net(nn.Module):
    """Two tied layers among those in a list, a frozen one, a buffer; some shards of three ranks are empty."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Linear(5, 4), nn.Linear(4, 5), nn.Linear(5, 4)])
        self.tied = self.layers[0]
        self.last = nn.Linear(4, 1)
        self.last.bias.requires_grad_(False)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        for layer in self.layers:
            x = layer(x).tanh()
        return self.last(self.tied(nn.functional.pad(x, (0, 1))))  # type: ignore[no-any-return]


def build(optim: str, sharded: bool) -> tuple[Net, torch.optim.Optimizer]:
    net = Net()
    if sharded:
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        for layer in net.layers[1:]:
            fully_shard(layer, mesh=mesh)
        fully_shard(net, mesh=mesh)
    recipe = AdamW(lr=0.01, schedule=Constant(), weight_decay=0.1)
    optimizer = (Muon(lr=0.01, rest=recipe) if optim == "muon" else recipe).build(net)
    save_by_name(optimizer, net)
    return net, optimizer


def step(net: Net, optimizer: torch.optim.Optimizer) -> None:
    net(torch.linspace(0, 1, 10).view(2, 5)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def content_of(net: Net, optimizer: torch.optim.Optimizer) -> Content:
    average = {name: 2 * parameter.detach() for name, parameter in net.named_parameters()}
    counts = torch.tensor([1, 2])
    return {
        "state_dict": dict(net.state_dict()),
        "optimizer_states": [optimizer.state_dict()],
        "callbacks": {"Ema": {"average": average}, "Guard": {"counts": counts}},
        "loops": {"steps": [1, ("a", None)]},
    }


def save(content: Content, path: Path) -> None:
    writer = Writer(lambda *_: None, background=True)
    writer.start(content, Save(path, int(path.stem[5:]), {}, best=False))
    written = writer.wait()
    assert written is not None and written.error is None, written


def train(directory: Path, optim: str, sharded: bool, load: Path | None, steps: int) -> None:
    """Makes steps from a checkpoint, or from the beginning, and saves."""
    net, optimizer = build(optim, sharded)
    start = 0
    if load is not None:
        parameters = dict(net.named_parameters(remove_duplicate=False)) if sharded else None
        content = AtomicCheckpointIO().load_checkpoint(load, map_location=parameters)
        average = content["callbacks"]["Ema"]["average"]["last.weight"]
        assert isinstance(average, DTensor) == sharded
        net.load_state_dict(content["state_dict"])
        optimizer.load_state_dict(content["optimizer_states"][0])
        start = int(load.stem[5:])
    for _ in range(steps):
        step(net, optimizer)
    save(content_of(net, optimizer), checkpoint_path(directory, start + steps))


def close(a: Content, b: Content) -> None:
    """Equal in all but the last bits, which ranks add up in another order."""
    flat_a, flat_b = (dict(torch.utils._pytree.tree_flatten_with_path(x)[0]) for x in (a, b))
    assert flat_a.keys() == flat_b.keys()
    for key, value in flat_a.items():
        if isinstance(value, Tensor):
            torch.testing.assert_close(value, flat_b[key], rtol=0, atol=1e-6)
        else:
            assert value == flat_b[key], key


@pytest.mark.parametrize("optim", ["adamw", "muon"])
def test_a_run_goes_on_from_a_folder_or_a_file_with_any_number_of_ranks(
    tmp_path: Path, run_ranks: RunRanks, optim: str
) -> None:
    train(tmp_path / "whole", optim, False, None, 2)
    train(tmp_path / "whole", optim, False, checkpoint_path(tmp_path / "whole", 2), 4)
    expected = AtomicCheckpointIO().load_checkpoint(checkpoint_path(tmp_path / "whole", 6))

    chain = tmp_path / "chain"
    train(chain, optim, False, None, 2)
    run_ranks(2, train, chain, optim, True, checkpoint_path(chain, 2), 1)
    run_ranks(3, train, chain, optim, True, checkpoint_path(chain, 3), 1)
    run_ranks(1, train, chain, optim, True, checkpoint_path(chain, 4), 1)
    train(chain, optim, False, checkpoint_path(chain, 5), 1)
    assert [checkpoint_path(chain, s).is_dir() for s in range(2, 7)] == [False, True, True, True, False]
    close(AtomicCheckpointIO().load_checkpoint(checkpoint_path(chain, 6)), expected)


def save_both(directory: Path) -> None:
    """The same content, once in shards by both ranks, twice, and once whole by rank 0."""
    net, optimizer = build("adamw", sharded=True)
    step(net, optimizer)
    content = content_of(net, optimizer)
    save(content, checkpoint_path(directory, 1))
    save(content, checkpoint_path(directory, 2))
    gathered = torch.utils._pytree.tree_map(lambda x: x.full_tensor() if isinstance(x, DTensor) else x, content)
    save(gathered, checkpoint_path(directory, 3))


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from gloo_ranks import run_in

    directory = tmp_path_factory.mktemp("both")
    run_in(tmp_path_factory.mktemp("ranks"), 2, save_both, (directory,))
    return directory


def test_a_folder_holds_what_a_file_holds_tensor_by_tensor(both: Path) -> None:
    folder, _, file = (AtomicCheckpointIO().load_checkpoint(checkpoint_path(both, s)) for s in (1, 2, 3))
    assert not differences(folder, file)
    assert not differences(folder["optimizer_states"][0]["param_groups"][0]["params"][0], "layers.0.weight")


def test_every_rank_writes_its_shards_and_equal_contents_make_equal_files(both: Path) -> None:
    first, second = (read_record(checkpoint_path(both, s)) for s in (1, 2))
    assert first is not None and second is not None
    assert first.parts.keys() == {".metadata", "content.pt", "__0_0.distcp", "__1_0.distcp"}
    assert first.parts == second.parts


def test_the_weights_are_read_without_the_moments(both: Path) -> None:
    content = read_weights(checkpoint_path(both, 1))
    assert not content["state_dict"]["last.weight"].is_meta
    assert not content["callbacks"]["Ema"]["average"]["last.weight"].is_meta
    assert content["optimizer_states"][0]["state"]["last.weight"]["exp_avg"].is_meta


def load_own(folder: Path, mine: Path) -> None:
    """Reads a folder from which the other rank's shards are gone."""
    shutil.copytree(folder, mine / str(dist.get_rank()))
    (mine / str(dist.get_rank()) / f"__{1 - dist.get_rank()}_0.distcp").unlink()
    net, _ = build("adamw", sharded=True)
    content = AtomicCheckpointIO().load_checkpoint(
        mine / str(dist.get_rank()), map_location=dict(net.named_parameters(remove_duplicate=False))
    )
    net.load_state_dict(content["state_dict"])


def test_a_rank_reads_its_own_shards_alone(both: Path, tmp_path: Path, run_ranks: RunRanks) -> None:
    run_ranks(2, load_own, checkpoint_path(both, 1), tmp_path)


def change_after_start(directory: Path) -> None:
    net, optimizer = build("adamw", sharded=True)
    step(net, optimizer)
    content = content_of(net, optimizer)
    writer = Writer(lambda *_: None, background=True)
    writer.start(content, Save(checkpoint_path(directory, 1), 1, {}, best=False))
    step(net, optimizer)
    writer.wait()


def test_steps_made_while_it_is_written_do_not_change_it(both: Path, tmp_path: Path, run_ranks: RunRanks) -> None:
    run_ranks(2, change_after_start, tmp_path)
    a, b = (read_record(checkpoint_path(place, 1)) for place in (both, tmp_path))
    assert a is not None and b is not None and a.parts == b.parts


class Harmful:
    def __reduce__(self) -> Any:
        return print, ("code from a checkpoint",)


@pytest.mark.parametrize("name", [".metadata", "content.pt"])
def test_a_folder_that_needs_code_is_refused(
    both: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(checkpoint_path(both, 1), tmp_path / "folder")
    with (tmp_path / "folder" / name).open("wb") as file:
        pickle.dump(Harmful(), file) if name == ".metadata" else torch.save(Harmful(), file)
    with pytest.raises(pickle.UnpicklingError):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "folder")
    assert capsys.readouterr().out == ""


def test_every_file_of_a_folder_is_checked(both: Path, tmp_path: Path) -> None:
    path = checkpoint_path(tmp_path, 1)
    record = checkpoint_path(both, 1).with_suffix(".json")
    for name in (".metadata", "content.pt", "__1_0.distcp"):
        shutil.copytree(checkpoint_path(both, 1), path)
        shutil.copy(record, tmp_path)
        assert why_torn(path) is None
        content = bytearray((path / name).read_bytes())
        content[len(content) // 2] ^= 1
        (path / name).write_bytes(content)
        assert why_torn(path) == f"the hash of {name} differs from what was written"
        shutil.rmtree(path)
