"""The time of a training step on many devices, from that of one device, the sizes of messages and the networks.

Weak scaling: every device has the batch of the one. Its step of t seconds is an update u (clipping, the optimizer), and
forward and backward passes of ``(t - u) / 3`` and ``2 (t - u) / 3``, as a backward pass has twice the products. A pass
is n equal units; with a seconds of computing and b of communication each, they take

    overlapped  a + (n - 1) * max(a, b) + b     (two machines in a row, Johnson 1954; the first or last b is exposed)
    one by one  n * (a + b)

and ``overlap`` of the first, the rest of the second. P parameters, of which E are outside of blocks (embeddings, head):

    ddp    backward in buckets of 25 MiB, each all-reduced; then E, ready last (Li et al. 2020, arXiv:2006.15704)
    zero1, as ddp with buckets of 50M elements, never overlapped; the update on 1/W, then an all-gather of P
    zero2  (DeepSpeed 0.19 all-reduces where the paper reduces, Rajbhandari et al. 2020, arXiv:1910.02054, section 7)
    fsdp,  forward with an all-gather of each block, before it that of E; backward with an all-gather and a
    zero3  reduce-scatter of each, after it that of E; the update on 1/W (Zhao et al. 2023, arXiv:2304.11277)
    hsdp   as fsdp within a node, and what is reduce-scattered is all-reduced between nodes; the update on 1/g

A contrastive loss adds what `mmtrain.nn.infonce` sends: an all-gather of N texts, a reduce-scatter of their gradients,
two all-reduces of N numbers; and 8 b (N - b) D operations, four products of b images with the other devices' texts.

What it does not know: stragglers, congestion, data that comes late, kernels that slow down while NCCL holds part of the
device, and the memory of activations. It is a floor, not a promise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from scaling.cluster import Cluster

FP32 = 4
DDP_BUCKET = 25 * 2**20
ZERO_BUCKET = 50_000_000 * FP32


@dataclass(frozen=True)
class Contrastive:
    """What a contrastive loss adds on more than one device.

    Attributes:
        rows: Pairs of a device.
        width: Of the shared space.
        flops_per_s: Of the products of features, in fp32.
    """

    rows: int
    width: int
    flops_per_s: float

    def seconds(self, cluster: Cluster, devices: int) -> float:
        """What is added to a step."""
        every = self.rows * devices
        products = 8 * self.rows * (every - self.rows) * self.width / self.flops_per_s
        features, sums = every * self.width * FP32, every * FP32
        return products + 2 * cluster.gather(features, devices) + 2 * cluster.reduce(sums, devices)


@dataclass(frozen=True)
class Workload:
    """A training step of one device, and what of it is sent.

    Attributes:
        step_s: Seconds of the step on one device.
        params: Parameters.
        outside: Those outside of blocks, which are gathered in fp32.
        blocks: Number of blocks.
        update_s: Seconds of the step that are clipping and the optimizer.
        bytes_per_param: Of a block's weight as it is gathered: 2 in bf16.
        overlap: Share of the communication that can go on while the device computes.
        contrastive: Of CLIP.
    """

    step_s: float
    params: int
    outside: int
    blocks: int
    update_s: float = 0.0
    bytes_per_param: float = FP32
    overlap: float = 1.0
    contrastive: Contrastive | None = None

    @property
    def forward_s(self) -> float:
        return (self.step_s - self.update_s) / 3

    @property
    def backward_s(self) -> float:
        return 2 * self.forward_s

    @property
    def in_blocks(self) -> int:
        return self.params - self.outside


def flow(units: int, compute: float, communicate: float, overlap: float) -> float:
    """Seconds of ``units`` that compute and communicate for so many seconds each."""
    overlapped = compute + (units - 1) * max(compute, communicate) + communicate
    return overlap * overlapped + (1 - overlap) * units * (compute + communicate)


def ddp(work: Workload, cluster: Cluster, devices: int) -> float:
    """Seconds of a step."""
    size = work.in_blocks * FP32
    buckets = math.ceil(size / DDP_BUCKET)
    backward = flow(buckets, work.backward_s / buckets, cluster.reduce(size / buckets, devices), work.overlap)
    return work.forward_s + backward + cluster.reduce(work.outside * FP32, devices) + work.update_s


def zero2(work: Workload, cluster: Cluster, devices: int) -> float:
    """Seconds of a step; of ZeRO-1, too."""
    size = work.params * FP32
    buckets = math.ceil(size / ZERO_BUCKET)
    sent = buckets * cluster.reduce(size / buckets, devices) + cluster.gather(size, devices)
    return work.forward_s + work.backward_s + sent + work.update_s / devices


def fsdp(work: Workload, cluster: Cluster, devices: int) -> float:
    """Seconds of a step; of ZeRO-3, too."""
    return _sharded(work, cluster, devices, lambda size: 0.0)


def hsdp(work: Workload, cluster: Cluster, devices: int) -> float:
    """Seconds of a step with a copy of the model in each node."""
    nodes, own = cluster.nodes(devices)
    return _sharded(work, cluster, own, lambda size: cluster.reduce_between_nodes(size / own, nodes))


def _sharded(work: Workload, cluster: Cluster, shards: int, reduce: Callable[[float], float]) -> float:
    block = work.in_blocks / work.blocks
    gather = cluster.gather(block * work.bytes_per_param, shards)
    scatter = cluster.gather(block * FP32, shards) + reduce(block * FP32)
    outside = work.outside * FP32
    forward = flow(work.blocks, work.forward_s / work.blocks, gather, work.overlap)
    backward = flow(work.blocks, work.backward_s / work.blocks, gather + scatter, work.overlap)
    return forward + backward + 2 * cluster.gather(outside, shards) + reduce(outside) + work.update_s / shards


STRATEGIES: dict[str, Callable[[Workload, Cluster, int], float]] = {
    "ddp": ddp,
    "zero1": zero2,
    "zero2": zero2,
    "zero3": fsdp,
    "fsdp": fsdp,
    "hsdp": hsdp,
}


def step_seconds(strategy: str, work: Workload, cluster: Cluster, devices: int) -> float:
    """Seconds of a step on some devices; on one, that of the one."""
    if devices == 1:
        return work.step_s
    added = 0.0 if work.contrastive is None else work.contrastive.seconds(cluster, devices)
    return STRATEGIES[strategy](work, cluster, devices) + added


def state_bytes(strategy: str, params: int, outside: int, devices: int) -> float:
    """Bytes of weights, gradients and the optimizer's state on each device, all in fp32, after the backward pass.

    AdamW has two moments: 4 + 4 + 8 bytes a parameter (Rajbhandari et al. 2020, section 3.1, with fp32 weights). Beyond
    the paper, DeepSpeed steps a second fp32 copy of what a rank has of the weights, and mmtrain has ZeRO-3 keep what is
    outside of blocks whole.

    Args:
        strategy: ``none``, one of `STRATEGIES`, or ``tp``: all devices share the blocks of one model.
        params: Parameters.
        outside: Those that ZeRO-3 keeps whole, or that are not shared.
        devices: Number of devices; for ``hsdp``, of a node.
    """
    parts = {
        "none": 16 * params,
        "ddp": 16 * params,
        "zero1": 8 * params + 12 * params / devices,
        "zero2": 4 * params + 16 * params / devices,
        "zero3": 20 * params / devices + (4 * outside if devices > 1 else 0),
        "fsdp": 16 * params / devices,
        "hsdp": 16 * params / devices,
        "tp": 16 * (outside + (params - outside) / devices),
    }
    return parts[strategy]
