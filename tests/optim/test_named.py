from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from mmtrain.errors import RunError
from mmtrain.optim.adamw import AdamW
from mmtrain.optim.muon import Muon
from mmtrain.optim.named import save_by_name
from mmtrain.optim.schedule import Constant

RECIPE = AdamW(lr=0.01, schedule=Constant(), weight_decay=0.1)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 4, 3)
        self.blocks = nn.ModuleList([nn.Linear(4, 4)])
        self.head = nn.Linear(4, 2)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.blocks[0](self.stem(image).flatten(1)))  # type: ignore[no-any-return]


def net(layout: torch.memory_format = torch.contiguous_format) -> Net:
    return Net().to(memory_format=layout)


def step(model: Net, optimizer: torch.optim.Optimizer) -> None:
    model(torch.linspace(0, 1, 3 * 3 * 3).view(1, 3, 3, 3)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def named(model: nn.Module, recipe: AdamW | Muon = RECIPE) -> torch.optim.Optimizer:
    optimizer = recipe.build(model)
    save_by_name(optimizer, model)
    return optimizer


@pytest.mark.parametrize("recipe", [RECIPE, Muon(lr=0.01, rest=RECIPE)], ids=["adamw", "muon"])
def test_the_state_stands_under_the_parameters_names_and_comes_back(recipe: AdamW | Muon) -> None:
    model = net()
    optimizer = named(model, recipe)
    step(model, optimizer)
    state = optimizer.state_dict()
    assert state["state"].keys() == dict(model.named_parameters()).keys()
    other = named(model, recipe)
    other.load_state_dict(state)
    for parameter, moments in optimizer.state.items():
        for key, value in moments.items():
            assert torch.equal(other.state[parameter][key], value)


def test_parameters_may_stand_in_another_order() -> None:
    model = net()
    optimizer = named(model)
    step(model, optimizer)
    state = optimizer.state_dict()
    for group in state["param_groups"]:
        group["params"].reverse()
    other = named(model)
    other.load_state_dict(state)
    for parameter, moments in optimizer.state.items():
        assert torch.equal(other.state[parameter]["exp_avg"], moments["exp_avg"])


def test_moments_take_the_layout_of_their_parameters() -> None:
    """A fused step of a channels-last weight with contiguous moments would mix them up without a word."""
    contiguous, last = net(), net(torch.channels_last)
    assert last.stem.weight.stride() != contiguous.stem.weight.stride()
    one, other = named(contiguous), named(last)
    step(contiguous, one)
    last.load_state_dict(contiguous.state_dict())
    other.load_state_dict(deepcopy(one.state_dict()))
    step(contiguous, one)
    step(last, other)
    for ours, theirs in zip(last.parameters(), contiguous.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-7)


def test_other_groups_are_refused_by_the_names_that_differ() -> None:
    state = named(net()).state_dict()
    model = net()
    model.head.weight.requires_grad_(False)
    with pytest.raises(RunError, match=r"other groups of parameters: head\.weight"):
        named(model).load_state_dict(state)


def test_a_state_by_number_is_refused() -> None:
    model = net()
    state = RECIPE.build(model).state_dict()
    with pytest.raises(RunError, match="by number"):
        named(model).load_state_dict(state)
