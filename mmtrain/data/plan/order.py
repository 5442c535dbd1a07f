"""The order of an epoch's samples, as a pure function of (seed, epoch, position).

The shards are permuted and laid end to end; that line is cut into ``lanes`` spans of equal length (to one sample), and
each lane is shuffled locally, within a *window*. A lane is worked out in chunks, each the first time a position in it
is asked for, so random access costs O(shards + window), never O(samples), and reading stays nearly sequential. The
number of lanes is part of the configuration, so that the order depends on neither ranks nor workers.

``block`` shuffles within equal blocks with a random first boundary, like MosaicML Streaming's ``py1br``. ``slide``
moves each sample by a random amount, like its ``py1e``, so that new shards are opened one by one, not all at a block's
start.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmtrain.errors import ConfigError, DataError, did_you_mean

IntArray = NDArray[np.int64]
Shuffle = Literal["block", "slide", "none"]

_CHUNK = 4096  # positions worked out at a time where a block does not set their number
_PLACES = 20  # binary places of a sliding sample's sort key
_LARGEST_WINDOW = 2**31  # a key's jitter is worked out in 64 bits


class EpochOrder:
    """The order of one epoch.

    Args:
        sizes: Samples of each shard.
        seed: Seed of the run.
        epoch: Number of the epoch, from 0.
        lanes: Spans that are read side by side.
        window: Samples that are shuffled together in a lane: none moves as far as that. 1 does not shuffle.
        shuffle: How a lane is shuffled. ``none`` keeps the order of the shards too, for evaluation.
        source: Number of the data set in a mixture; data sets of the same sizes do not get the same order.

    Attributes:
        shards: Numbers of the shards in the order of the line.
        starts: Where on the line each of them starts, and where the line ends, shape ``(shards + 1,)``.
        bounds: Where on the line each lane starts, and where the last one ends.
    """

    def __init__(
        self,
        sizes: IntArray,
        *,
        seed: int,
        epoch: int,
        lanes: int,
        window: int,
        shuffle: Shuffle = "block",
        source: int = 0,
    ) -> None:
        self.lanes = lanes
        self.window = window
        self._key = (seed, epoch, "source", source) if source else (seed, epoch)
        self.shards = np.arange(len(sizes)) if shuffle == "none" else permutation(len(sizes), "shards", *self._key)
        self.starts = np.zeros(len(sizes) + 1, np.int64)
        np.cumsum(sizes[self.shards], out=self.starts[1:])
        self._first_sample = np.cumsum(sizes) - sizes
        self.bounds = lane_bounds(int(self.starts[-1]), lanes)
        self._local: Shuffle = "none" if window == 1 else shuffle
        self._chunk_size = {"block": window, "slide": max(window, _CHUNK), "none": _CHUNK}[self._local]
        self._shift = lru_cache(maxsize=None)(self._draw_shift)
        self._chunk = lru_cache(maxsize=2 * lanes + 8)(self._shuffle_chunk)

    def lane_length(self, lane: int) -> int:
        """Samples of a lane."""
        return self.bounds[lane + 1] - self.bounds[lane]

    def lane_samples(self, lane: int, start: int, stop: int) -> IntArray:
        """Samples ``start`` to ``stop`` of a lane, as numbers in the order of the manifest."""
        parts = [np.empty(0, np.int64)]
        position = start
        while position < stop:
            first, samples = self.chunk(lane, position)
            end = min(stop, first + len(samples))
            parts.append(samples[position - first : end - first])
            position = end
        return np.concatenate(parts)

    def chunk(self, lane: int, position: int) -> tuple[int, IntArray]:
        """The chunk that holds ``position`` of a lane: its first position, and its samples in their order."""
        return self._chunk(lane, (position + self._shift(lane)) // self._chunk_size)

    @property
    def chunks_shuffled(self) -> int:
        """Chunks worked out so far: what random access has cost."""
        return self._chunk.cache_info().misses

    def _shuffle_chunk(self, lane: int, number: int) -> tuple[int, IntArray]:
        start = max(0, number * self._chunk_size - self._shift(lane))
        stop = min(self.lane_length(lane), (number + 1) * self._chunk_size - self._shift(lane))
        low, high, from_low = start, stop, np.arange(stop - start)
        if self._local == "block":
            from_low = permutation(stop - start, "block", *self._key, lane, number)
        elif self._local == "slide":
            low, high = max(0, start - self.window), min(self.lane_length(lane), stop + self.window)
            from_low = self._slide(lane, low, high)[start - low : stop - low]
        return start, self._samples(self.bounds[lane] + low, self.bounds[lane] + high)[from_low]

    def _slide(self, lane: int, low: int, high: int) -> IntArray:
        """Order of the positions ``low`` to ``high`` by position + U(0, window), counted from ``low``.

        A key is at least its position and less than that plus a window. So whatever lies a window below ``start``
        comes before the rank ``start``, whatever lies a window above ``stop`` comes after the rank ``stop``, and to
        sort the positions between those gives the ranks between ``start`` and ``stop`` as sorting the lane would.
        """
        philox = _philox("slide", *self._key, lane)
        philox.advance(low // 4)  # a count of Philox makes four words; position q has the q-th word
        words = philox.random_raw(high - low + low % 4)[low % 4 :]
        jitter = (words >> 32) * (self.window // 2 * 2) >> (32 - _PLACES)
        keys = (np.arange(low, high) << _PLACES) + jitter.astype(np.int64)
        return np.argsort(keys, kind="stable")

    def _draw_shift(self, lane: int) -> int:
        """Shifts a lane's blocks, so that the lanes do not all come to new shards in the same step."""
        return int(_philox("stagger", *self._key, lane).random_raw(1)[0] % self.window) if self._local == "block" else 0

    def _samples(self, low: int, high: int) -> IntArray:
        """Samples of the line's positions ``low`` to ``high``, as numbers in the order of the manifest."""
        first = int(np.searchsorted(self.starts, low, "right")) - 1
        last = int(np.searchsorted(self.starts, high, "left"))
        edges = np.clip(self.starts[first : last + 1], low, high)
        offsets = self._first_sample[self.shards[first:last]] - self.starts[first:last]
        return np.arange(low, high) + np.repeat(offsets, edges[1:] - edges[:-1])


def checked_sizes(sizes: ArrayLike, *, lanes: int, window: int, shuffle: str) -> IntArray:
    """``sizes`` as an array, where an order of these settings exists.

    Raises:
        ConfigError: A setting is out of range.
        DataError: The data set is empty.
    """
    if shuffle not in get_args(Shuffle):
        raise ConfigError(
            f"no shuffle is called {shuffle!r}", where="data.shuffle", mend=did_you_mean(shuffle, get_args(Shuffle))
        )
    if lanes < 1:
        raise ConfigError(f"{lanes} lanes", where="data.lanes", mend="set 1 or more")
    if not 1 <= window <= _LARGEST_WINDOW:
        mend = f"set 1 to {_LARGEST_WINDOW}; 1 does not shuffle"
        raise ConfigError(f"a window of {window} samples", where="data.window", mend=mend)
    counts = np.asarray(sizes, np.int64)
    if counts.sum() == 0:
        raise DataError("the data set has no samples", mend="look whether its shards hold files named KEY.EXTENSION")
    return counts


def lane_bounds(samples: int, lanes: int) -> list[int]:
    """Where on a line of samples each lane starts, and where the last one ends: the same in every epoch."""
    return [lane * samples // lanes for lane in range(lanes + 1)]


def permutation(n: int, *key: str | int) -> IntArray:
    """A random permutation of ``n`` that no version of NumPy may change.

    NumPy promises the streams of its bit generators, but not what ``Generator.permutation`` makes of them (NEP 19).
    """
    return np.argsort(_philox(*key).random_raw(n), kind="stable")


def _philox(*key: str | int) -> np.random.Philox:
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    return np.random.Philox(key=np.frombuffer(digest, "<u8"))
