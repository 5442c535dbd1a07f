from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from optim_toys import adamw, set_gradients, small_clip
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from mmtrain.optim.muon import Muon
from mmtrain.optim.skip import skip_where

RECIPES: dict[str, Callable[[nn.Module], Optimizer]] = {
    "adamw": lambda model: adamw().build(model),
    "muon": lambda model: Muon(lr=2e-2, rest=adamw(), weight_decay=0.1, split_qkv=True).build(model),
    "torch sgd": lambda model: SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1),
    "torch adam": lambda model: Adam(model.parameters(), lr=0.1, weight_decay=0.1),
}


def everything(model: nn.Module, optimizer: Optimizer) -> list[Tensor]:
    def tensors(value: Any) -> Iterable[Tensor]:
        if isinstance(value, Tensor):
            yield value.clone()
        elif isinstance(value, dict):
            for item in value.values():
                yield from tensors(item)

    return [*tensors(model.state_dict()), *tensors(optimizer.state_dict()["state"])]


def spoil(model: nn.Module, value: float) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_skipped_step_changes_no_bit_of_weights_and_state(recipe: str, value: float) -> None:
    model = small_clip()
    optimizer = RECIPES[recipe](model)
    for step in range(2):
        set_gradients(model, step)
        optimizer.step()
    before = everything(model, optimizer)
    spoil(model, value)
    skip_where(torch.tensor(True), optimizer)
    optimizer.step()
    after = everything(model, optimizer)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("recipe", RECIPES)
def test_training_goes_on_as_if_the_skipped_step_had_not_been(recipe: str) -> None:
    model, reference = small_clip(), small_clip()
    optimizer, expected = RECIPES[recipe](model), RECIPES[recipe](reference)
    for step in range(4):
        if step in (0, 2):  # the very first, too, before there is any state
            spoil(model, float("nan"))
            skip_where(torch.tensor(True), optimizer)
            optimizer.step()
        for trained, by in ((model, optimizer), (reference, expected)):
            set_gradients(trained, step)
            if by is optimizer:
                skip_where(torch.tensor(False), by)
            by.step()
    pairs = zip(everything(model, optimizer), everything(reference, expected), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
