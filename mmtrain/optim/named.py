"""The state of an optimizer by the names of parameters, which do not depend on how a model is spread over ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from mmtrain.errors import RunError

OptimizerState = dict[str, Any]
_NAMED = 8


def save_by_name(optimizer: Optimizer, module: nn.Module) -> None:
    """Has ``optimizer.state_dict()`` give its state by name, and ``load_state_dict`` take it.

    Args:
        optimizer: Of parameters of ``module``; those of other tensors, which stand in for them, are not touched.
        module: Whose parameters' names are taken.
    """
    names = {parameter: name for name, parameter in module.named_parameters()}
    groups = [[names[parameter] for parameter in group["params"]] for group in optimizer.param_groups]
    optimizer.register_state_dict_post_hook(lambda _, state: by_name(state, groups))
    optimizer.register_load_state_dict_pre_hook(lambda _, state: by_index(state, groups))
    optimizer.register_load_state_dict_post_hook(_lay_out_as_parameters)


def by_name(state: Mapping[str, Any], names: Sequence[Sequence[str]]) -> OptimizerState:
    """PyTorch's state dict of an optimizer, with names of parameters in the place of their numbers.

    Args:
        state: As of ``Optimizer.state_dict()``: ``{"state": {number: {...}}, "param_groups": [{"params": [number]}]}``.
        names: The names of each group's parameters.
    """
    name_of = {
        number: name
        for group, own in zip(state["param_groups"], names, strict=True)
        for number, name in zip(group["params"], own, strict=True)
    }
    return {
        "state": {name_of[number]: value for number, value in state["state"].items()},
        "param_groups": [
            {**group, "params": list(own)} for group, own in zip(state["param_groups"], names, strict=True)
        ],
    }


def by_index(state: Mapping[str, Any], names: Sequence[Sequence[str]]) -> OptimizerState:
    """The inverse of `by_name`; within a group the order may be another one now.

    Args:
        state: What `by_name` gave. Not changed.
        names: The names of each group's parameters, as they are now.

    Raises:
        RunError: The state is not by name, or of other groups of parameters.
    """
    stored = [group["params"] for group in state["param_groups"]]
    if any(isinstance(name, int) for group in stored for name in group):
        raise RunError(
            "the checkpoint holds the optimizer's state by number: it is older than this version can go on from",
            where="checkpoint: optimizer_states",
            mend="start over with run.fresh=true",
        )
    if differing := {name for a, b in zip_longest(stored, names, fillvalue=()) for name in set(a) ^ set(b)}:
        more = f" and {len(differing) - _NAMED} more" if len(differing) > _NAMED else ""
        raise RunError(
            f"the checkpoint's optimizer has other groups of parameters: {', '.join(sorted(differing)[:_NAMED])}{more}",
            where="checkpoint: optimizer_states",
            mend="set the options of model and optim as they were in the run",
        )
    number_of = {name: number for number, name in enumerate(chain.from_iterable(names))}
    return {
        "state": {number_of[name]: value for name, value in state["state"].items()},
        "param_groups": [
            {**group, "params": [number_of[name] for name in own]}
            for group, own in zip(state["param_groups"], names, strict=True)
        ],
    }


def _lay_out_as_parameters(optimizer: Optimizer) -> None:
    """Gives moments the memory layout of their parameters, which fused steps take for granted, in silence.

    A strategy that shards makes parameters contiguous, which elsewhere may be channels-last.
    """
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if value.shape == parameter.shape and value.stride() != parameter.stride():
                state[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
