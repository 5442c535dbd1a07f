"""What a plan hands out, and what every plan can do.

Of each global batch of B rows, every one of C lanes gives B/C consecutive ones; rank r of R takes the rows
[rB/R, (r+1)B/R). What a batch holds therefore depends on neither the number of ranks nor that of workers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from mmtrain.errors import ConfigError

IntArray = NDArray[np.int64]


class Pieces(NamedTuple):
    """Where in packed rows n parts of documents go: tokens ``start`` to ``stop`` of the document into ``row``.

    Rows ascend; the parts of a row stand in their order within it. Each array has the shape ``(n,)``.
    """

    row: IntArray
    start: IntArray
    stop: IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Share:
    """A rank's part of a global batch, or some consecutive rows of it.

    Attributes:
        source: Number of the data set each sample comes from, shape ``(n,)``; 0 without mixing.
        epoch: Pass over its data set, shape ``(n,)``.
        sample: Number of the sample in the order of its manifest, shape ``(n,)``.
        weight: 1 for a row that counts, 0 for filler, shape ``(rows,)``.
        pieces: With packing, the rows' parts; None where each sample is a row (and n = rows).
    """

    source: IntArray
    epoch: IntArray
    sample: IntArray
    weight: NDArray[np.float32]
    pieces: Pieces | None = None

    def __len__(self) -> int:
        return len(self.weight)

    def rows(self, start: int, stop: int) -> Share:
        """The rows ``start`` to ``stop``, numbered from 0."""
        if self.pieces is None:
            parts = slice(start, stop)
            pieces = None
        else:
            first, last = np.searchsorted(self.pieces.row, [start, stop])
            parts = slice(int(first), int(last))
            pieces = Pieces(self.pieces.row[parts] - start, self.pieces.start[parts], self.pieces.stop[parts])
        return Share(self.source[parts], self.epoch[parts], self.sample[parts], self.weight[start:stop], pieces)

    def moved(self, to: IntArray) -> Share:
        """The same rows in another order: row i becomes row ``to[i]``."""
        if self.pieces is None:
            parts = np.argsort(to)
            pieces = None
        else:
            row = to[self.pieces.row]
            parts = np.argsort(row, kind="stable")  # which keeps the order of a row's parts
            pieces = Pieces(row[parts], self.pieces.start[parts], self.pieces.stop[parts])
        weight = self.weight[np.argsort(to)]
        return Share(self.source[parts], self.epoch[parts], self.sample[parts], weight, pieces)


def concatenate(shares: Sequence[Share]) -> Share:
    """The rows of one or more shares, one share after another; all are packed, or none is."""
    weight = np.concatenate([share.weight for share in shares])
    pieces = None
    if packed := [share.pieces for share in shares if share.pieces is not None]:
        assert len(packed) == len(shares), "packed rows among rows that are not"
        first = np.cumsum([0] + [len(share) for share in shares[:-1]])
        row = np.concatenate([piece.row + offset for piece, offset in zip(packed, first.tolist(), strict=True)])
        start = np.concatenate([piece.start for piece in packed])
        pieces = Pieces(row, start, np.concatenate([piece.stop for piece in packed]))
    source = np.concatenate([share.source for share in shares])
    epoch = np.concatenate([share.epoch for share in shares])
    sample = np.concatenate([share.sample for share in shares])
    return Share(source, epoch, sample, weight, pieces)


class Plan(Protocol):
    """The batches of one rank, as a pure function of (epoch, step)."""

    global_batch_size: int
    seed: int

    def __len__(self) -> int:
        """Steps of an epoch, the same on every rank."""

    def share(self, epoch: int, step: int) -> Share:
        """This rank's part of the global batch at ``step`` of ``epoch``."""

    def position(self, epoch: int, step: int) -> dict[str, int]:
        """The place before a step as ``epoch`` and ``samples``: the same for any global batch size."""

    def locate(self, epoch: int, samples: int) -> tuple[int, int]:
        """The (epoch, step) of a place.

        Raises:
            RunError: The place is not at the edge of a global batch.
        """

    @property
    def identity(self) -> Mapping[str, Any]:
        """All that the order depends on besides the shards: plain values, compared at a resume."""


class Slots:
    """The rows of a global batch that a rank takes, lane by lane.

    Args:
        global_batch_size: Rows of a step, over all ranks.
        lanes: Streams that a batch is taken from; must divide the global batch.
        rank: This rank.
        world_size: Number of ranks; must divide the global batch.

    Raises:
        ConfigError: The global batch does not divide.
    """

    def __init__(self, global_batch_size: int, lanes: int, rank: int, world_size: int) -> None:
        require_divisible(global_batch_size, "the number of ranks", world_size)
        if lanes < 1 or global_batch_size % lanes:
            reason = f"data.lanes = {lanes} does not divide data.global_batch_size = {global_batch_size}"
            mend = f"set data.lanes={nearest_divisor(global_batch_size, lanes)}"
            raise ConfigError(reason, where="data.lanes", mend=mend)
        self.rows = range(rank * global_batch_size // world_size, (rank + 1) * global_batch_size // world_size)
        self._per_lane = global_batch_size // lanes

    def __len__(self) -> int:
        return len(self.rows)

    def lanes(self, step: int) -> Iterator[tuple[int, int, int]]:
        """``(lane, start, stop)``: the stretches of lanes that make up the rank's rows of ``step``, in their order."""
        size = self._per_lane
        for lane in range(self.rows.start // size, -(-self.rows.stop // size)):
            start, stop = max(0, self.rows.start - lane * size), min(size, self.rows.stop - lane * size)
            yield lane, step * size + start, step * size + stop


def require_divisible(global_batch_size: int, name: str, divisor: int) -> None:
    """Raises a `ConfigError` with the nearest valid sizes where ``divisor``, called ``name``, does not divide."""
    if divisor < 1 or global_batch_size < 1:
        reason = f"{name} = {divisor} and data.global_batch_size = {global_batch_size} must both be at least 1"
        raise ConfigError(reason, where="data.global_batch_size", mend="set positive numbers")
    if global_batch_size % divisor:
        below = global_batch_size // divisor * divisor
        nearest = " or ".join(str(size) for size in (below, below + divisor) if size)
        raise ConfigError(
            f"data.global_batch_size = {global_batch_size} is not a multiple of {name} = {divisor}",
            where="data.global_batch_size",
            mend=f"set data.global_batch_size={nearest}",
        )


def require_micro_batch(global_batch_size: int, world_size: int, micro_batch_size: int | None) -> None:
    """Raises a `ConfigError` where the ranks do not divide a global batch, or micro-batches a rank's share of it."""
    require_divisible(global_batch_size, "the number of ranks", world_size)
    share = global_batch_size // world_size
    if micro_batch_size is not None and (micro_batch_size < 1 or share % micro_batch_size):
        raise ConfigError(
            f"micro-batches of {micro_batch_size} do not divide a rank's share of {share} samples",
            where="data.micro_batch_size",
            mend=f"set data.micro_batch_size={nearest_divisor(share, micro_batch_size)}",
        )


def nearest_divisor(number: int, near: int) -> int:
    """The divisor of ``number`` that is nearest to ``near``; the smaller one of two."""
    small = [divisor for divisor in range(1, math.isqrt(number) + 1) if number % divisor == 0]
    divisors = small + [number // divisor for divisor in small]
    return min(divisors, key=lambda divisor: (abs(divisor - near), divisor))
