"""Which samples a rank takes in a step: a pure function of the configuration and (epoch, step).

Of each global batch of B samples, every one of C lanes gives B/C consecutive ones; rank r of R takes the slots
[rB/R, (r+1)B/R). What a batch holds therefore does not depend on the number of ranks.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmtrain.data.order import EpochOrder
from mmtrain.errors import ConfigError, DataError

Tail = Literal["pad", "drop"]


class Share(NamedTuple):
    """A rank's part of a global batch.

    Attributes:
        epoch: Epoch it belongs to.
        samples: Numbers of the samples in the order of the manifest, shape ``(batch,)``.
        weight: 1 for a sample, 0 for filler that repeats one, shape ``(batch,)``.
    """

    epoch: int
    samples: NDArray[np.int64]
    weight: NDArray[np.float32]


class Plan:
    """The batches of one rank.

    Args:
        sizes: Samples of each shard.
        seed: Seed of the order.
        global_batch_size: Samples of a step, over all ranks.
        rank: This rank.
        world_size: Number of ranks; must divide the global batch.
        lanes: Spans of the data set that are read side by side; must divide the global batch.
        window: Samples that are shuffled together in a lane.
        tail: What becomes of an epoch's last, short batch: ``pad`` fills it with repeats of weight 0, so that every
            sample counts once; ``drop`` leaves it out.
        shuffle: False keeps the order of the manifest in every epoch, for evaluation.

    Raises:
        ConfigError: The global batch does not divide, or no batch is left.
        DataError: The data set is empty.
    """

    def __init__(
        self,
        sizes: NDArray[np.int64],
        *,
        global_batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        lanes: int = 8,
        window: int = 4096,
        tail: Tail = "pad",
        shuffle: bool = True,
    ) -> None:
        require_divisible(global_batch_size, "the number of ranks", world_size)
        if lanes < 1 or global_batch_size % lanes:
            reason = f"data.lanes = {lanes} does not divide data.global_batch_size = {global_batch_size}"
            mend = f"set data.lanes={nearest_divisor(global_batch_size, lanes)}"
            raise ConfigError(reason, where="data.lanes", mend=mend)
        if window < 1:
            raise ConfigError(
                f"a window of {window} samples", where="data.window", mend="set 1 or more; 1 does not shuffle"
            )
        self.sizes = sizes
        self.seed = seed
        self.global_batch_size = global_batch_size
        self.lanes = lanes
        self.window = window
        self._slots = range(rank * global_batch_size // world_size, (rank + 1) * global_batch_size // world_size)
        self._shuffle = shuffle
        samples = int(sizes.sum())
        if samples == 0:
            raise DataError(
                "the data set has no samples", mend="look whether its shards hold files named KEY.EXTENSION"
            )
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
        slots = self._slots
        if step < self._full_batches:
            per_lane = self.global_batch_size // self.lanes
            parts = []
            for lane in range(slots.start // per_lane, -(-slots.stop // per_lane)):
                start = max(0, slots.start - lane * per_lane)
                stop = min(per_lane, slots.stop - lane * per_lane)
                parts.append(order.lane_samples(lane, step * per_lane + start, step * per_lane + stop))
            return Share(epoch, np.concatenate(parts), np.ones(len(slots), np.float32))
        left = self._left_over(order)
        position = np.arange(slots.start, slots.stop)
        return Share(epoch, left[position % len(left)], (position < len(left)).astype(np.float32))

    def order(self, epoch: int) -> EpochOrder:
        """The order of an epoch; the last one asked for is kept."""
        if self._order is None or self._order[0] != epoch:
            order = EpochOrder(
                self.sizes,
                seed=self.seed,
                epoch=epoch if self._shuffle else 0,
                lanes=self.lanes,
                window=self.window,
                shuffle=self._shuffle,
            )
            self._order = (epoch, order)
        return self._order[1]

    def _left_over(self, order: EpochOrder) -> NDArray[np.int64]:
        done = self._full_batches * self.global_batch_size // self.lanes
        return np.concatenate([order.lane_samples(lane, done, order.lane_length(lane)) for lane in range(self.lanes)])


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


def nearest_divisor(number: int, near: int) -> int:
    """The divisor of ``number`` that is nearest to ``near``; the smaller one of two."""
    small = [divisor for divisor in range(1, math.isqrt(number) + 1) if number % divisor == 0]
    divisors = small + [number // divisor for divisor in small]
    return min(divisors, key=lambda divisor: (abs(divisor - near), divisor))
