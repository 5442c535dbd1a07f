"""What a rank holds: bytes of tensors by what they are for, and of the process."""

from __future__ import annotations

import gc
import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmtrain.sharded import own_part

PARTS = ("weights", "gradients", "optimizer", "other")


def held(model: nn.Module, optimizer: Any) -> dict[str, int]:
    """Bytes of tensors that this rank holds, after the backward pass.

    Storages are counted once, and whole: what DDP's buckets and ZeRO's flat buffers hold is in them.

    Args:
        model: Its parameters, whole or in parts, and their gradients.
        optimizer: PyTorch's, or ZeRO's. ZeRO's fp32 copy of the weights counts as the optimizer's, which steps it.

    Returns:
        By `PARTS`; other is all that Python knows of beyond the three.
    """
    counted: set[int] = set()
    parts = {
        "weights": _bytes(_weights(model), counted),
        "gradients": _bytes(_gradients(model, optimizer), counted),
        "optimizer": _bytes(_states(optimizer), counted),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some modules warn of being looked at
        living = [thing for thing in gc.get_objects() if isinstance(thing, Tensor)]
    return {**parts, "other": _bytes(living, counted)}


def _weights(model: nn.Module) -> Iterator[Tensor]:
    for parameter in model.parameters():
        yield parameter.data
        if hasattr(parameter, "ds_tensor"):  # ZeRO-3's part
            yield parameter.ds_tensor


def _gradients(model: nn.Module, optimizer: Any) -> Iterator[Tensor]:
    for parameter in model.parameters():
        if parameter.grad is not None:
            yield parameter.grad
    # Where DeepSpeed 0.19 keeps them: in lists by group under stages 1 and 2, in a flat buffer under stage 3.
    for gradients in getattr(optimizer, "averaged_gradients", {}).values():
        yield from gradients or []
    if hasattr(optimizer, "grad_partitions_flat_buffer"):
        yield optimizer.grad_partitions_flat_buffer


def _states(optimizer: Any) -> Iterator[Tensor]:
    if hasattr(optimizer, "loss_scaler"):  # ZeRO's
        from mmtrain.strategy.deepspeed_state import flat_parts

        yield from flat_parts(optimizer)
        optimizer = optimizer.optimizer
    for state in optimizer.state.values():
        yield from (value for value in state.values() if isinstance(value, Tensor))


def _bytes(tensors: Iterable[Tensor], counted: set[int]) -> int:
    total = 0
    for tensor in tensors:
        own = own_part(tensor.detach())
        if own.layout != torch.strided or own.device.type == "meta":
            continue
        storage = own.untyped_storage()
        if storage.data_ptr() not in counted:
            counted.add(storage.data_ptr())
            total += storage.nbytes()
    return total


class Peak:
    """The most memory since a moment: of the process, beyond what it had at first, or of the GPU.

    Args:
        device: ``cpu`` or ``cuda``.
    """

    def __init__(self, device: str) -> None:
        self._on_gpu = device == "cuda"
        self._before = 0 if self._on_gpu else _status("VmRSS")

    def restart(self) -> None:
        """Counts from here on."""
        if self._on_gpu:
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")

    def bytes(self) -> int:
        return torch.cuda.max_memory_allocated() if self._on_gpu else _status("VmHWM") - self._before


def proportional_bytes() -> int:
    """The process's memory now; pages that several processes share count in parts (PSS)."""
    return _kilobytes(Path("/proc/self/smaps_rollup").read_text(), "Pss")


def _status(name: str) -> int:
    return _kilobytes(Path("/proc/self/status").read_text(), name)


def _kilobytes(text: str, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024
