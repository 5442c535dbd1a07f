"""How the shards and lanes of a data set fall on ranks: found by walking the plan, which reads no data.

Rank r of R takes the rows [rB/R, (r+1)B/R) of each global batch, so that one walk tells of all numbers of ranks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmtrain.data.doctor.verdict import Finding
from mmtrain.data.fetch.reader import ShardReader
from mmtrain.data.plan.share import Plan, nearest_divisor

_STEPS = 100
_ROWS = 2_000_000  # walked at most: 0.1 s for each number of ranks
_OFTEN = 0.2  # of what is read: less shared reading is the edge of a lane


@dataclass(frozen=True)
class Walk:
    """The shards behind the first steps of a plan, for all ranks together.

    Attributes:
        global_batch_size: Rows of a step.
        steps: Steps that were walked.
        step: Step of each sample, shape ``(n,)``.
        row: Row of the global batch, shape ``(n,)``.
        shard: Number of the shard, counted through all data sets, shape ``(n,)``.
        shard_bytes: Size of each shard, shape ``(shards,)``.
        shard_samples: Samples of a shard, on average.
        orders: Lanes and window of each data set; empty where the plan does not say.
    """

    global_batch_size: int
    steps: int
    step: NDArray[np.int64]
    row: NDArray[np.int64]
    shard: NDArray[np.int64]
    shard_bytes: NDArray[np.int64]
    shard_samples: float
    orders: tuple[tuple[int, int], ...]

    @property
    def lanes(self) -> int | None:
        """Lanes of the plan, if all its data sets have as many."""
        return self.orders[0][0] if len({lanes for lanes, _ in self.orders}) == 1 else None


@dataclass(frozen=True)
class Layout:
    """What falls on the ranks of one world size.

    Attributes:
        world_size: Ranks.
        rows: Rows of a rank; None where the global batch does not divide, and then so is all that follows.
        lanes: Lanes that a rank takes rows from: 1/4 where four ranks share one.
        open_shards: Shards between the first and the last of the windows that a rank draws from.
        shards_per_step: Shards that a rank reads from in a step, on average.
        shards_walked: Shards that a rank read from in all steps of the walk, at most.
        shared: Bytes of shards that further ranks read from, too, over those of all shards that were read from.
    """

    world_size: int
    rows: int | None
    lanes: Fraction | None = None
    open_shards: int | None = None
    shards_per_step: float | None = None
    shards_walked: int | None = None
    shared: float | None = None


def walk(plan: Plan, readers: Sequence[ShardReader]) -> Walk:
    """Walks up to 100 steps of a plan.

    Args:
        plan: That of a single rank, which takes all rows.
        readers: Its data sets, by number.
    """
    first_shard = np.cumsum([0] + [len(reader.manifest.shards) for reader in readers])
    steps = min(_STEPS, len(plan), max(1, _ROWS // plan.global_batch_size))
    step_parts, row_parts, shard_parts = [], [], []
    for step in range(steps):
        share = plan.share(0, step)
        shard = np.empty(len(share.sample), np.int64)
        for source, reader in enumerate(readers):
            of_source = share.source == source
            shard[of_source] = first_shard[source] + reader.shards_of(share.sample[of_source])
        step_parts.append(np.full(len(shard), step))
        row_parts.append(np.arange(len(shard)) if share.pieces is None else share.pieces.row)
        shard_parts.append(shard)
    shards = [shard for reader in readers for shard in reader.manifest.shards]
    return Walk(
        plan.global_batch_size,
        steps,
        np.concatenate(step_parts),
        np.concatenate(row_parts),
        np.concatenate(shard_parts),
        np.array([shard.bytes for shard in shards], np.int64),
        sum(len(reader) for reader in readers) / len(shards),
        tuple(_orders(plan.identity)),
    )


def world_sizes(at_least: int) -> list[int]:
    """1, 2, 4, ... and ``at_least`` itself, to the first power of two that is no smaller."""
    powers = [2**power for power in range((at_least - 1).bit_length() + 1)]
    return sorted({*powers, at_least})


def layout(walked: Walk, world_size: int) -> Layout:
    """What falls on the ranks of a world."""
    rows, rest = divmod(walked.global_batch_size, world_size)
    if rest:
        return Layout(world_size, None)
    rank, shards = walked.row // rows, len(walked.shard_bytes)
    in_steps = np.unique((walked.step * world_size + rank) * shards + walked.shard)
    pairs = np.unique(rank * shards + walked.shard)
    once = walked.shard_bytes[np.unique(walked.shard)].sum()
    return Layout(
        world_size,
        rows,
        None if walked.lanes is None else Fraction(walked.lanes, world_size),
        _open_shards(walked, world_size) if walked.orders else None,
        len(in_steps) / (walked.steps * world_size),
        int(np.bincount(pairs // shards).max()),
        float(walked.shard_bytes[pairs % shards].sum() / once) - 1,
    )


def layout_findings(
    walked: Walk, placed: Layout, *, max_open: int, opening_us: float, reading_us: float, fetched_by: int
) -> Iterator[Finding]:
    """What the layout of a config costs.

    Args:
        walked: The walk.
        placed: The layout of the config's ranks.
        max_open: Shards that a reader holds open.
        opening_us: Microseconds to open a shard.
        reading_us: Microseconds to read a sample of an open one.
        fetched_by: Nodes that fetch the shards, each for itself; 1 where they are not fetched.
    """
    open_shards = max(placed.open_shards or 0, math.ceil(placed.shards_per_step or 0))
    if open_shards > max_open:
        misses = 1 - max_open / open_shards
        text = (
            f"A rank draws from {open_shards:,} shards at a time, and a reader holds {max_open} open: {misses:.0%} of "
            f"reads open one, which adds {misses * opening_us:,.0f} us to the {reading_us:,.0f} us of a read."
        )
        yield Finding(text, _narrower(walked, placed, max_open))
    lanes, shards = walked.lanes, len(walked.shard_bytes)
    if lanes is None or placed.shared is None or fetched_by == 1 or placed.shared < _OFTEN:
        return
    cost = f"{placed.world_size} ranks read shards {1 + placed.shared:.1f} times, and each node fetches its own"
    if shards < lanes:
        size = max(1, int(walked.shard_samples * shards / lanes))
        text = f"{shards} shards for {lanes} lanes: lanes share shards; {cost}."
        yield Finding(text, f"python -m mmtrain data pack ... --samples-per-shard {size}")
    elif lanes < placed.world_size:
        more = nearest_divisor(walked.global_batch_size, placed.world_size)
        yield Finding(f"{lanes} lanes for {placed.world_size} ranks: ranks share lanes; {cost}.", f"data.lanes={more}")


def _orders(identity: Mapping[str, Any]) -> Iterator[tuple[int, int]]:
    """Lanes and windows out of what a plan says of itself, through mixtures and packing."""
    if "lanes" in identity and "window" in identity:
        yield identity["lanes"], identity["window"]
        return
    for value in identity.values():
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, Mapping):
                yield from _orders(part)


def _open_shards(walked: Walk, world_size: int) -> int:
    """A window touches the shards it spans and, not starting at an edge, one more."""
    spans = (_lanes_of_rank(lanes, world_size) * _span(window, walked) for lanes, window in walked.orders)
    return min(sum(spans), len(walked.shard_bytes))


def _lanes_of_rank(lanes: int, world_size: int) -> int:
    return math.ceil(lanes / world_size)


def _span(window: int, walked: Walk) -> int:
    return math.ceil(window / walked.shard_samples) + 1


def _narrower(walked: Walk, placed: Layout, max_open: int) -> str | None:
    """The largest window, in whole shards, whose shards can all be open; None where lanes alone are too many."""
    lanes = sum(_lanes_of_rank(lanes, placed.world_size) for lanes, _ in walked.orders)
    shards = max_open // lanes - 1 if lanes else 0
    return f"data.window={int(shards * walked.shard_samples)}" if shards >= 1 else None
