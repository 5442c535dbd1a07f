"""Weighted mixing of data sets, as a pure function of the position.

A lane is cut into blocks of P rows. Before block k, source s has given it exactly floor(k P W_(s+1)) - floor(k P W_s)
rows, where W_s is the sum of the weights before s: at a block's edge no source is a whole row away from its weight, at
any distance, and where it stands needs no counting. Within a block the sources are shuffled. Each keeps its own epochs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from mmtrain.data.plan.order import IntArray, permutation
from mmtrain.data.plan.share import Share, concatenate
from mmtrain.data.plan.stream import LaneStream
from mmtrain.errors import ConfigError

_SMALLEST_WEIGHT = 1e-5  # a block holds about one row of the lightest source: this bounds a block


class Mixture:
    """Several streams as one.

    Args:
        streams: The sources, of the same number of lanes; all packed to rows of one length, or none packed.
        weights: Share of the rows that each source gives, up to a common factor.
        seed: Seed of the run.
        block: Rows of a lane in which the weights hold, to one row; made larger where a source is too light for it.

    Raises:
        ConfigError: There are fewer than two sources, or a weight cannot be kept.
    """

    def __init__(self, streams: Sequence[LaneStream], weights: Sequence[float], *, seed: int = 0, block: int = 1024):
        self.streams = list(streams)
        self.seed = seed
        self._weights = _normalised(weights)
        assert len(self.streams) == len(self._weights) and block > 0
        assert len({stream.lanes for stream in self.streams}) == 1, "the sources differ in lanes"
        if len(lengths := {stream.row_length for stream in self.streams}) > 1:
            reason = f"a mixture of rows of different kinds, in tokens: {', '.join(map(str, lengths))}"
            raise ConfigError(reason, where="data.sources", mend="pack all sources to one length, or none")
        self.lanes = self.streams[0].lanes
        self.row_length = self.streams[0].row_length
        self.rows_per_epoch = sum(stream.rows_per_epoch for stream in self.streams)
        # With less than one row of a source in a block, the difference of two floors could be -1.
        self.block = block * math.ceil(1 / (block * min(self._weights)))
        self._block = lru_cache(maxsize=self.lanes + 8)(self._shuffle_block)

    def take(self, lane: int, start: int, stop: int) -> Share:
        """Rows ``start`` to ``stop`` of a lane."""
        first, last = start // self.block, -(-stop // self.block)
        of_rows = np.concatenate([self._block(lane, number) for number in range(first, last)])
        skipped = start - first * self.block
        before = np.bincount(of_rows[:skipped], minlength=len(self.streams)).tolist()
        of_rows = of_rows[skipped : skipped + stop - start]
        shares = []
        for source, (given, skip) in enumerate(zip(self.quotas(first), before, strict=True)):
            if count := int((of_rows == source).sum()):
                shares.append(self.streams[source].take(lane, given + skip, given + skip + count))
        return concatenate(shares).moved(np.argsort(of_rows, kind="stable"))

    def quotas(self, blocks: int) -> list[int]:
        """Rows that each source has given to a lane in so many blocks."""
        edges = [blocks * self.block * weight // 1 for weight in accumulate(self._weights, initial=Fraction(0))]
        return [int(high - low) for low, high in pairwise(edges)]

    @property
    def identity(self) -> Mapping[str, Any]:
        """All that the rows depend on besides the shards."""
        weights = [str(weight) for weight in self._weights]
        sources = [dict(stream.identity) for stream in self.streams]
        return {"kind": "mixture", "seed": self.seed, "block": self.block, "weights": weights, "sources": sources}

    def _shuffle_block(self, lane: int, number: int) -> IntArray:
        """The source of each row of a block."""
        counts = np.subtract(self.quotas(number + 1), self.quotas(number))
        shuffled = permutation(self.block, "mixture", self.seed, lane, number)
        return np.repeat(np.arange(len(counts)), counts)[shuffled]


def _normalised(weights: Sequence[float]) -> list[Fraction]:
    """Weights as written, exactly: 0.7 is 7/10, not the nearest binary number."""
    where = "data.sources"
    if len(weights) < 2:
        mend = "name two sources or more, or use the one without a mixture"
        raise ConfigError(f"a mixture of {len(weights)} sources", where=where, mend=mend)
    for source, weight in enumerate(weights):
        if not (math.isfinite(weight) and weight > 0):
            mend = "set a positive number, or leave the source out"
            raise ConfigError(f"source {source} has the weight {weight}", where=where, mend=mend)
    exact = [Fraction(str(weight)) for weight in weights]
    shares = [weight / sum(exact) for weight in exact]
    for source, share in enumerate(shares):
        if share < _SMALLEST_WEIGHT:
            reason = f"source {source} gives {float(share):.1g} of the rows, too few to plan"
            raise ConfigError(reason, where=where, mend=f"leave it out, or give it {_SMALLEST_WEIGHT} or more")
    return shares
