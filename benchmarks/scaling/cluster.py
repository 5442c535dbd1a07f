"""What collectives cost on a cluster: a latency for each hop and a bandwidth, within nodes and between them.

Thakur, Rabenseifner and Gropp 2005 (doi:10.1177/1094342005051521): a message of S bytes takes ``alpha + S / B``, and a
collective as many of them as its algorithm has hops. Of W ranks, M nodes of g each:

    all-gather, reduce-scatter of S bytes in all, by a ring (Patarasuk and Yuan 2009, doi:10.1016/j.jpdc.2008.09.002)
        time = max((W - 1) / W * S / B_intra,  (M - 1) / M * S / (g * B_inter)) + hops
        hops = (W - M) * alpha_intra + (M - 1) * alpha_inter

    all-reduce: as much is sent as by both of these, by trees between nodes, as NCCL does it since 2.4
        hops = (g - 1) * alpha_intra + ceil(log2 M) * alpha_inter, twice

Messages are cut in pieces that follow one another, so that the slower of the two networks counts, not the sum. All g
devices of a node send over an adapter of their own, which is what ``B_inter`` is of.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

GIGABIT = 1e9 / 8


@dataclass(frozen=True)
class Link:
    """A network as one device meets it.

    Attributes:
        gbps: What a device sends while it receives as much, in Gbit/s.
        latency_us: Of one hop, in microseconds.
    """

    gbps: float
    latency_us: float

    @property
    def bytes_per_s(self) -> float:
        return self.gbps * GIGABIT

    @property
    def latency_s(self) -> float:
        return self.latency_us * 1e-6


@dataclass(frozen=True)
class Cluster:
    """Nodes of equally many devices.

    Attributes:
        intra: Network of a node.
        inter: Network between nodes, of each device.
        node: Devices of a node.
        gather_hops: How all-gather and reduce-scatter are made: around a ring, as NCCL does, or in ``ceil(log2 n)``
            hops.
    """

    intra: Link
    inter: Link
    node: int = 8
    gather_hops: Literal["ring", "log"] = "ring"

    def nodes(self, devices: int) -> tuple[int, int]:
        """Number of nodes, and devices of each, that some devices fill."""
        own = min(devices, self.node)
        if devices % own:
            raise ValueError(f"{devices} devices do not fill nodes of {own}")
        return devices // own, own

    def gather(self, size: float, devices: int) -> float:
        """Seconds of an all-gather to, or a reduce-scatter of, ``size`` bytes on each device."""
        nodes, own = self.nodes(devices)
        if self.gather_hops == "ring":
            hops = (devices - nodes) * self.intra.latency_s + (nodes - 1) * self.inter.latency_s
        else:
            hops = _log2(own) * self.intra.latency_s + _log2(nodes) * self.inter.latency_s
        return self._transfer(size, devices) + hops

    def reduce(self, size: float, devices: int) -> float:
        """Seconds of an all-reduce of ``size`` bytes on each device."""
        nodes, own = self.nodes(devices)
        hops = (own - 1) * self.intra.latency_s + _log2(nodes) * self.inter.latency_s
        return 2 * (self._transfer(size, devices) + hops)

    def reduce_between_nodes(self, size: float, nodes: int) -> float:
        """Seconds of an all-reduce of ``size`` bytes among the devices of the same place in each node."""
        return 2 * ((nodes - 1) / nodes * size / self.inter.bytes_per_s + _log2(nodes) * self.inter.latency_s)

    def _transfer(self, size: float, devices: int) -> float:
        nodes, own = self.nodes(devices)
        within = (devices - 1) / devices * size / self.intra.bytes_per_s if own > 1 else 0.0
        between = (nodes - 1) / nodes * size / (own * self.inter.bytes_per_s)
        return max(within, between)


def _log2(count: int) -> int:
    return math.ceil(math.log2(count))
