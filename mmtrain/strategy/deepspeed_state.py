"""What ZeRO holds in parts, given and taken as it stands for whole parameters: weights, moments, gradients' norm.

ZeRO-1 and 2 keep all ranks' weights whole in `parameter.data`, views of one flat buffer; each rank steps a flat part of
an fp32 copy, and has the moments of that part. ZeRO-3 keeps the weights in parts, too. The fp32 copy is the truth: in
bf16, `parameter.data` is its rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mmtrain.errors import RunError

MOMENTS = ("exp_avg", "exp_avg_sq")
OptimizerState = dict[str, Any]


def gradient_norm(optimizer: Any) -> Tensor:
    """The 2-norm of all gradients over all ranks, a scalar in fp32; ``inf`` where one is not finite.

    Args:
        optimizer: ZeRO's, after the backward pass. All ranks must call it.
    """
    from deepspeed.runtime.utils import combine_grad_norm_groups

    if hasattr(optimizer, "scaled_global_norm"):  # stages 1 and 2
        norm: Tensor = optimizer.scaled_global_norm()
    else:
        norm = combine_grad_norm_groups(optimizer._get_norm_groups())
    return norm.float()


@torch.no_grad()
def clamp_(parameter: nn.Parameter, low: float, high: float) -> None:
    """Bounds every element of a parameter, and of the fp32 copy that the optimizer steps, without communication."""
    parameter.data.clamp_(low, high)
    if _is_partitioned(parameter):
        parameter.ds_tensor.data.clamp_(low, high)  # type: ignore[attr-defined]
    own = own_part(parameter)
    if own is not None:
        set_own_part(parameter, own.clamp(low, high))


@torch.no_grad()
def give_weights(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter, in fp32 where it is trained, and buffer of the module, whole, by its name in the state dict.

    One is whole at a time. All ranks must draw all.
    """
    whole: dict[int, Tensor] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        if id(tensor) not in whole:
            whole[id(tensor)] = _give(tensor) if isinstance(tensor, nn.Parameter) else tensor.detach()
        yield name, whole[id(tensor)]


@torch.no_grad()
def take_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Sets every parameter and buffer of the module to what `give_weights` gave, under any stage and number of ranks.

    Raises:
        RunError: Names are missing, or too many.
    """
    tensors = module.state_dict(keep_vars=True)
    if differing := tensors.keys() ^ weights.keys():
        raise RunError(
            f"the checkpoint and the model differ in {', '.join(sorted(differing)[:8])}",
            where="checkpoint",
            mend="set the model's options as they were in the run",
        )
    for name, tensor in tensors.items():
        value = weights[name].to(tensor.device)
        if not _is_partitioned(tensor):
            tensor.data.copy_(value)
        else:
            own = part_of(value, tensor.ds_tensor.numel(), tensor.ds_process_group)
            tensor.ds_tensor.data.copy_(own)
            if tensor.data.numel() == tensor.ds_numel:
                tensor.data.copy_(value)
        if isinstance(tensor, nn.Parameter) and tensor.requires_grad:
            _take(tensor, value)


@torch.no_grad()
def give_optimizer_state(optimizer: Any, groups: Sequence[Sequence[nn.Parameter]]) -> OptimizerState:
    """The state of the optimizer inside of ZeRO's as that of PyTorch's over whole parameters, on the CPU of rank 0.

    Args:
        optimizer: ZeRO's. All ranks must call it.
        groups: The parameters of each group, as they were given to the optimizer.
    """
    inner = optimizer.optimizer
    parameters = [parameter for group in groups for parameter in group]
    steps = [float(state["step"]) for state in inner.state.values() if "step" in state]
    state: dict[int, dict[str, Tensor]] = {}
    if steps:
        _link_moments(optimizer)
        for index, parameter in enumerate(parameters):
            moments = {key: _give(parameter, key) for key in MOMENTS}
            if dist.get_rank() == 0:
                state[index] = {"step": torch.tensor(steps[0]), **{key: x.cpu() for key, x in moments.items()}}
    numbers = iter(range(len(parameters)))
    described = [
        {**_options(group), "params": [next(numbers) for _ in own]}
        for group, own in zip(inner.param_groups, groups, strict=True)
    ]
    return {"state": state, "param_groups": described}


@torch.no_grad()
def take_optimizer_state(optimizer: Any, groups: Sequence[Sequence[nn.Parameter]], state: OptimizerState) -> None:
    """Sets moments, steps and learning rates to what `give_optimizer_state`, or PyTorch's own AdamW, gave."""
    inner = optimizer.optimizer
    described = [group for group in state["param_groups"] if group["params"]]
    for group, stored in zip(inner.param_groups, described, strict=True):
        group.update(_options(stored))
    if not state["state"]:
        return
    step = next(iter(state["state"].values()))["step"]
    for flat in flat_parts(optimizer):
        zeros = {key: torch.zeros_like(flat) for key in MOMENTS}
        inner.state[flat] = {"step": torch.tensor(float(step), device=flat.device), **zeros}
    _link_moments(optimizer)
    parameters = [parameter for group in groups for parameter in group]
    for index, parameter in enumerate(parameters):
        for key in MOMENTS:
            _take(parameter, state["state"][index][key], key)


def flat_parts(optimizer: Any) -> list[Tensor]:
    """This rank's flat fp32 parts, which the inner optimizer steps."""
    if hasattr(optimizer, "single_partition_of_fp32_groups"):  # stages 1 and 2
        return list(optimizer.single_partition_of_fp32_groups)
    return list(optimizer.fp32_partitioned_groups_flat)


def own_part(parameter: nn.Parameter, key: str | None = None) -> Tensor | None:
    """This rank's flat part of the fp32 copy of a trained parameter, or of a moment; None where it has none."""
    from deepspeed.utils import safe_get_local_fp32_param, safe_get_local_optimizer_state

    if _is_partitioned(parameter):
        if key is None:
            return safe_get_local_fp32_param(parameter)  # type: ignore[no-any-return]
        return safe_get_local_optimizer_state(parameter, key)  # type: ignore[no-any-return]
    mapping = parameter._hp_mapping  # type: ignore[attr-defined]
    return None if mapping is None else mapping.get_hp_fragment(key)


def set_own_part(parameter: nn.Parameter, value: Tensor, key: str | None = None) -> None:
    """Sets what `own_part` gets."""
    from deepspeed.utils import safe_set_local_fp32_param, safe_set_local_optimizer_state

    if not _is_partitioned(parameter):
        parameter._hp_mapping.get_hp_fragment(key).copy_(value)  # type: ignore[attr-defined]
    elif key is None:
        safe_set_local_fp32_param(parameter, value)
    else:
        safe_set_local_optimizer_state(parameter, value, key)


def part_of(whole: Tensor, numel: int, group: dist.ProcessGroup) -> Tensor:
    """The part of ``numel`` elements, flat, that this rank has of a tensor under ZeRO-3; the last is filled with 0."""
    flat = whole.flatten()
    own = flat[dist.get_rank(group) * numel : (dist.get_rank(group) + 1) * numel]
    return torch.cat([own, own.new_zeros(numel - len(own))])


def _give(parameter: nn.Parameter, key: str | None = None) -> Tensor:
    """A parameter's fp32 copy, or a moment, whole, on all ranks; of a frozen one itself."""
    from deepspeed.runtime.zero import GatheredParameters
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    if not parameter.requires_grad:
        with GatheredParameters([parameter], enabled=_is_partitioned(parameter)):
            return parameter.detach().clone()
    if key is not None:
        return safe_get_full_optimizer_state(parameter, key)  # type: ignore[no-any-return]
    if not _is_partitioned(parameter) and parameter.dtype == torch.float32:
        return parameter.detach()  # the same as its copy, bit for bit
    return safe_get_full_fp32_param(parameter)  # type: ignore[no-any-return]


def _take(parameter: nn.Parameter, whole: Tensor, key: str | None = None) -> None:
    if _is_partitioned(parameter):
        own = part_of(whole, parameter.ds_tensor.numel(), parameter.ds_process_group)  # type: ignore[attr-defined]
        set_own_part(parameter, own, key)
    elif (mapping := parameter._hp_mapping) is not None:  # type: ignore[attr-defined]
        address = mapping.lp_fragment_address
        set_own_part(parameter, whole.flatten()[address.start : address.start + address.numel], key)


def _link_moments(optimizer: Any) -> None:
    """Has each parameter of ZeRO-1 and 2 know its moments: DeepSpeed does so before all groups have theirs."""
    if hasattr(optimizer, "_lazy_init_hp_params_optimizer_state"):
        optimizer._hp_optimizer_states_linked = False
        optimizer._lazy_init_hp_params_optimizer_state()


def _options(group: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name != "params"}


def _is_partitioned(tensor: Tensor) -> bool:
    """Whether ZeRO-3 has a tensor in parts."""
    return hasattr(tensor, "ds_id")
