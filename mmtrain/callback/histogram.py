"""How the elements of tensors are distributed, also of tensors that ranks hold in parts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mmtrain import distributed
from mmtrain.sharded import counts_here, is_sharded, own_part

_COUNTED_AT_ONCE = 1 << 24
"""`torch.histc` counts in fp32, which knows no larger odd number."""


@dataclass(frozen=True)
class Histogram:
    """Counts of equal bins.

    Attributes:
        counts: Elements in each bin.
        edges: Of the bins, one more than there are.
    """

    counts: list[int]
    edges: list[float]


def histograms(tensors: Mapping[str, Tensor], bins: int) -> dict[str, Histogram]:
    """Histograms of whole tensors, each from its least to its largest element.

    Every element is counted once, by the rank that has it. All ranks must call it where any tensor is sharded; then
    they meet twice, for the ranges and for the counts of all tensors together. What is not finite is left out, and so
    is a tensor of which nothing is.

    Args:
        tensors: By name, the same on all ranks.
        bins: Of each histogram.

    Returns:
        By name; of whole tensors alone on rank 0, and nothing on the others.
    """
    shared = any(is_sharded(tensor) for tensor in tensors.values())
    if not tensors or (not shared and distributed.rank() != 0):
        return {}
    parts = [_counted_part(tensor.detach()) for tensor in tensors.values()]
    device = parts[0].device
    widest = torch.stack([_reach(part).to(device) for part in parts])
    widest = distributed.all_reduce_max(widest) if shared else widest
    ranges = [_widened(-low, high) for low, high in widest.tolist()]
    counts = torch.stack([_count(part, bins, *limits).to(device) for part, limits in zip(parts, ranges, strict=True)])
    counts = distributed.all_reduce_sum(counts) if shared else counts
    found = zip(tensors, counts.tolist(), ranges, strict=True)
    return {
        name: Histogram(every, np.linspace(*limits, bins + 1).tolist())
        for name, every, limits in found
        if math.isfinite(limits[0])
    }


def _counted_part(x: Tensor) -> Tensor:
    """What of a tensor this rank counts, flat and in fp32; of copies, the first rank's."""
    part = own_part(x).reshape(-1).float()
    return part if counts_here(x) else part[:0]


def _reach(part: Tensor) -> Tensor:
    """The least finite element, negative, and the largest one; both -inf where there is none."""
    nothing = part.new_full((1,), -math.inf)
    finite = part.isfinite()
    return torch.stack(
        [torch.cat([torch.where(finite, signed, -math.inf), nothing]).amax() for signed in (-part, part)]
    )


def _widened(low: float, high: float) -> tuple[float, float]:
    """A range that is no point."""
    margin = max(0.5, 1e-3 * abs(low)) if low == high else 0.0
    return low - margin, high + margin


def _count(part: Tensor, bins: int, low: float, high: float) -> Tensor:
    counts = torch.zeros(bins, dtype=torch.int64, device=part.device)
    if math.isfinite(low):
        for piece in part.split(_COUNTED_AT_ONCE):
            counts += torch.histc(piece, bins, low, high).to(torch.int64)
    return counts
