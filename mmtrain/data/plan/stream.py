"""Rows without an edge, for budgets of steps: what mixing and packing build on.

A lane is an endless stream of rows: those of its first epoch, then of its second, and so on. A step takes the next rows
of each lane, whether or not an epoch ends among them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from mmtrain.data.plan.epoch import not_at_an_edge
from mmtrain.data.plan.order import EpochOrder, Shuffle, checked_sizes, lane_bounds
from mmtrain.data.plan.share import Share, Slots, concatenate
from mmtrain.errors import ConfigError

_SAMPLES_OF_KEPT_ORDERS = 1_000_000


class LaneStream(Protocol):
    """Endless rows in lanes, with random access.

    Attributes:
        lanes: Number of lanes.
        seed: Seed of the run.
        rows_per_epoch: Rows of one pass over the data, about: the unit in which progress is told.
    """

    lanes: int
    seed: int
    rows_per_epoch: int

    @property
    def row_length(self) -> int | None:
        """Tokens of a packed row; None where each row is a sample."""

    def take(self, lane: int, start: int, stop: int) -> Share:
        """Rows ``start`` to ``stop`` of a lane; at least one."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """All that the rows depend on besides the shards: plain values, compared at a resume."""


class Endless:
    """A data set's samples, epoch after epoch.

    A lane has as many samples in every epoch, so the epoch of a position is found by division.

    Args:
        sizes: Samples of each shard.
        seed: Seed of the order.
        lanes: Spans of the data set that are read side by side.
        window: Samples that are shuffled together in a lane.
        shuffle: How a lane is shuffled.
        source: Number of the data set in a mixture.

    Attributes:
        kept_orders: Number of epochs whose orders are kept.

    Raises:
        ConfigError: A setting is out of range, or some lanes would be empty.
        DataError: The data set is empty.
    """

    row_length: int | None = None

    def __init__(
        self,
        sizes: ArrayLike,
        *,
        seed: int = 0,
        lanes: int = 8,
        window: int = 4096,
        shuffle: Shuffle = "block",
        source: int = 0,
    ) -> None:
        self.sizes = checked_sizes(sizes, lanes=lanes, window=window, shuffle=shuffle)
        self.seed = seed
        self.lanes = lanes
        self.window = window
        self.shuffle: Shuffle = shuffle
        self.source = source
        self.rows_per_epoch = int(self.sizes.sum())
        if self.rows_per_epoch < lanes:
            reason = f"the data set has {self.rows_per_epoch} samples, fewer than data.lanes = {lanes}"
            raise ConfigError(reason, where="data.lanes", mend=f"set data.lanes={self.rows_per_epoch} or fewer")
        # A batch of a small data set runs through many epochs in each lane; of a large one, through an edge of two.
        self.kept_orders = max(2, min(64, _SAMPLES_OF_KEPT_ORDERS // self.rows_per_epoch))
        self._bounds = lane_bounds(self.rows_per_epoch, lanes)
        self._order = lru_cache(maxsize=self.kept_orders)(self._make_order)

    def take(self, lane: int, start: int, stop: int) -> Share:
        """Rows ``start`` to ``stop`` of a lane."""
        length = self._bounds[lane + 1] - self._bounds[lane]
        samples, epochs = [], []
        position = start
        while position < stop:
            epoch, done = divmod(position, length)
            end = min(length, done + stop - position)
            samples.append(self.order(epoch).lane_samples(lane, done, end))
            epochs.append(np.full(end - done, epoch))
            position += end - done
        rows = stop - start
        source, weight = np.full(rows, self.source), np.ones(rows, np.float32)
        return Share(source, np.concatenate(epochs), np.concatenate(samples), weight)

    @property
    def identity(self) -> Mapping[str, Any]:
        """All that the rows depend on besides the shards."""
        settings = {"seed": self.seed, "lanes": self.lanes, "window": self.window, "shuffle": self.shuffle}
        return {"kind": "endless", **settings, "source": self.source}

    def order(self, epoch: int) -> EpochOrder:
        """The order of an epoch; the last ones asked for are kept."""
        return self._order(epoch)

    def _make_order(self, epoch: int) -> EpochOrder:
        return EpochOrder(
            self.sizes,
            seed=self.seed,
            epoch=epoch,
            lanes=self.lanes,
            window=self.window,
            shuffle=self.shuffle,
            source=self.source,
        )


class StreamPlan:
    """The batches of one rank, taken from an endless stream.

    An epoch here is no more than the number of steps of about one pass: nothing happens at its end.

    Args:
        stream: Where rows come from.
        global_batch_size: Rows of a step, over all ranks; a multiple of the stream's lanes.
        rank: This rank.
        world_size: Number of ranks; must divide the global batch.

    Raises:
        ConfigError: The global batch does not divide.
    """

    def __init__(self, stream: LaneStream, *, global_batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self._slots = Slots(global_batch_size, stream.lanes, rank, world_size)
        self._divisor = math.lcm(stream.lanes, world_size)
        self.stream = stream
        self.seed = stream.seed
        self.global_batch_size = global_batch_size

    def __len__(self) -> int:
        """Steps of about one pass over the data, the same on every rank."""
        return max(1, self.stream.rows_per_epoch // self.global_batch_size)

    def share(self, epoch: int, step: int) -> Share:
        """This rank's part of the global batch at ``step`` of ``epoch``."""
        return concatenate([self.stream.take(*stretch) for stretch in self._slots.lanes(epoch * len(self) + step)])

    def position(self, epoch: int, step: int) -> dict[str, int]:
        """The place before a step, as all rows since the start: a changed global batch changes an epoch's steps."""
        return {"epoch": 0, "samples": (epoch * len(self) + step) * self.global_batch_size}

    def locate(self, epoch: int, samples: int) -> tuple[int, int]:
        """The (epoch, step) of a place.

        Raises:
            RunError: The place is not at the edge of a global batch.
        """
        assert epoch == 0, "not a place of a stream"
        step, rest = divmod(samples, self.global_batch_size)
        if rest:
            raise not_at_an_edge(f"{samples} rows into the data", samples, self.global_batch_size, self._divisor)
        return divmod(step, len(self))

    @property
    def identity(self) -> Mapping[str, Any]:
        """All that the order depends on besides the shards."""
        return self.stream.identity
