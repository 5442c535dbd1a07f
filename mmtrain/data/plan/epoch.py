"""Epochs with an edge: every sample counts once an epoch, and the last, short batch is padded or dropped."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from mmtrain.data.plan.order import EpochOrder, IntArray, Shuffle, checked_sizes
from mmtrain.data.plan.share import Share, Slots, nearest_divisor
from mmtrain.errors import ConfigError, RunError, did_you_mean

Tail = Literal["pad", "drop"]


class EpochPlan:
    """The batches of one rank, epoch by epoch.

    Args:
        sizes: Samples of each shard.
        seed: Seed of the order.
        global_batch_size: Samples of a step, over all ranks.
        rank: This rank.
        world_size: Number of ranks; must divide the global batch.
        lanes: Spans of the data set that are read side by side; must divide the global batch.
        window: Samples that are shuffled together in a lane.
        shuffle: How a lane is shuffled; ``none`` keeps the order of the manifest in every epoch, for evaluation.
        tail: What becomes of an epoch's last, short batch: ``pad`` fills it with repeats of weight 0, so that every
            sample counts once; ``drop`` leaves it out.

    Raises:
        ConfigError: The global batch does not divide, a setting is out of range, or no batch is left.
        DataError: The data set is empty.
    """

    def __init__(
        self,
        sizes: ArrayLike,
        *,
        global_batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        lanes: int = 8,
        window: int = 4096,
        shuffle: Shuffle = "block",
        tail: Tail = "pad",
    ) -> None:
        self._slots = Slots(global_batch_size, lanes, rank, world_size)
        self._sizes = checked_sizes(sizes, lanes=lanes, window=window, shuffle=shuffle)
        if tail not in get_args(Tail):
            raise ConfigError(f"no tail is called {tail!r}", where="data.tail", mend=did_you_mean(tail, get_args(Tail)))
        self.seed = seed
        self.global_batch_size = global_batch_size
        self.lanes = lanes
        self.window = window
        self.shuffle: Shuffle = shuffle
        self._divisor = math.lcm(lanes, world_size)
        samples = int(self._sizes.sum())
        self._full_batches, short = divmod(samples, global_batch_size)
        self._steps = self._full_batches + (1 if short and tail == "pad" else 0)
        if self._steps == 0:
            reason = f"the data set has {samples} samples, less than one global batch of {global_batch_size}"
            raise ConfigError(reason, where="data.tail", mend="set data.tail=pad, or a smaller data.global_batch_size")
        self._order: tuple[int, EpochOrder] | None = None

    def __len__(self) -> int:
        """Steps of an epoch, the same on every rank."""
        return self._steps

    def share(self, epoch: int, step: int) -> Share:
        """This rank's part of the global batch at ``step`` of ``epoch``."""
        order = self.order(epoch)
        rows = len(self._slots)
        if step < self._full_batches:
            samples = np.concatenate([order.lane_samples(*stretch) for stretch in self._slots.lanes(step)])
            weight = np.ones(rows, np.float32)
        else:
            left = self._left_over(order)
            position = np.arange(self._slots.rows.start, self._slots.rows.stop)
            samples = left[position % len(left)]
            weight = (position < len(left)).astype(np.float32)
        return Share(np.zeros(rows, np.int64), np.full(rows, epoch), samples, weight)

    def position(self, epoch: int, step: int) -> dict[str, int]:
        """The place before a step as ``epoch`` and ``samples``; after the last step that is the next epoch's start."""
        if step == len(self):
            return {"epoch": epoch + 1, "samples": 0}
        return {"epoch": epoch, "samples": step * self.global_batch_size}

    def locate(self, epoch: int, samples: int) -> tuple[int, int]:
        """The (epoch, step) of a place.

        Raises:
            RunError: The place is not at the edge of a global batch of this epoch.
        """
        step, rest = divmod(samples, self.global_batch_size)
        if step == len(self) and not rest:  # with a smaller batch, some of what is dropped now would have come yet
            return epoch + 1, 0
        if rest or step > len(self):
            raise not_at_an_edge(f"{samples} samples into an epoch", samples, self.global_batch_size, self._divisor)
        return epoch, step

    @property
    def identity(self) -> Mapping[str, Any]:
        """All that the order depends on besides the shards."""
        settings = {"seed": self.seed, "lanes": self.lanes, "window": self.window, "shuffle": self.shuffle}
        return {"kind": "epochs", **settings}

    def order(self, epoch: int) -> EpochOrder:
        """The order of an epoch; the last one asked for is kept."""
        if self._order is None or self._order[0] != epoch:
            order = EpochOrder(
                self._sizes, seed=self.seed, epoch=epoch, lanes=self.lanes, window=self.window, shuffle=self.shuffle
            )
            self._order = (epoch, order)
        return self._order[1]

    def _left_over(self, order: EpochOrder) -> IntArray:
        done = self._full_batches * self.global_batch_size // self.lanes
        return np.concatenate([order.lane_samples(lane, done, order.lane_length(lane)) for lane in range(self.lanes)])


def not_at_an_edge(place: str, samples: int, global_batch_size: int, divisor: int) -> RunError:
    """The error for a place that a global batch size cannot go on from, with the nearest size that can.

    Args:
        place: The place in words.
        samples: Rows before it.
        global_batch_size: Rows of a step now.
        divisor: What a global batch must be a multiple of: lanes and ranks.
    """
    reason = f"{place} is not at the edge of a global batch of {global_batch_size}"
    if samples % divisor:
        mend = "resume with the data.global_batch_size and the number of ranks the checkpoint was written with"
    else:
        nearest = divisor * nearest_divisor(samples // divisor, global_batch_size // divisor)
        mend = f"set data.global_batch_size={nearest}"
    return RunError(reason, where="data.global_batch_size", mend=mend)
