"""The order of an epoch's samples, as a pure function of (seed, epoch, position).

The shards are permuted and laid end to end; that line is cut into ``lanes`` spans of equal length (to one sample), and
each lane is shuffled locally, one *window* after another. A window costs one sort the first time a position in it is
asked for, so random access costs O(shards + window), never O(samples), and reading stays nearly sequential. The number
of lanes is part of the configuration, so that the order depends on neither ranks nor workers.

The shuffle within equal blocks, with a random first boundary, is MosaicML Streaming's ``py1br``.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]


class EpochOrder:
    """The order of one epoch.

    Args:
        sizes: Samples of each shard.
        seed: Seed of the run.
        epoch: Number of the epoch, from 0.
        lanes: Spans that are read side by side.
        window: Samples that are shuffled together in a lane.
        shuffle: False keeps the order of the shards and samples, for evaluation.
    """

    def __init__(
        self, sizes: IntArray, *, seed: int, epoch: int, lanes: int, window: int, shuffle: bool = True
    ) -> None:
        self.lanes = lanes
        self.window = window
        self.shuffle = shuffle
        self.total = int(sizes.sum())
        self._key = (seed, epoch)
        self._shards = _permutation(len(sizes), "shards", seed, epoch) if shuffle else np.arange(len(sizes))
        self._line = np.concatenate([[0], np.cumsum(sizes[self._shards])])
        self._first_sample = np.concatenate([[0], np.cumsum(sizes)[:-1]])[self._shards]
        self._bounds = [lane * self.total // lanes for lane in range(lanes + 1)]
        self._stagger = [self._draw_stagger(lane) for lane in range(lanes)]
        self._window = lru_cache(maxsize=2 * lanes + 8)(self._sort_window)

    def lane_length(self, lane: int) -> int:
        """Samples of a lane."""
        return self._bounds[lane + 1] - self._bounds[lane]

    def lane_samples(self, lane: int, start: int, stop: int) -> IntArray:
        """Samples ``start`` to ``stop`` of a lane, as numbers in the order of the manifest."""
        if not self.shuffle:
            return self._locate(self._bounds[lane] + np.arange(start, stop))
        parts = [np.empty(0, np.int64)]
        position = start
        while position < stop:
            first, shuffled = self._window(lane, (position + self._stagger[lane]) // self.window)
            end = min(stop, first + len(shuffled))
            parts.append(shuffled[position - first : end - first])
            position = end
        return self._locate(self._bounds[lane] + np.concatenate(parts))

    @property
    def windows_sorted(self) -> int:
        """Windows sorted so far: the work that random access has cost."""
        return self._window.cache_info().misses

    def _sort_window(self, lane: int, number: int) -> tuple[int, IntArray]:
        """The window's first position in its lane, and the positions that come there."""
        start = max(0, number * self.window - self._stagger[lane])
        stop = min(self.lane_length(lane), (number + 1) * self.window - self._stagger[lane])
        return start, start + _permutation(stop - start, "block", *self._key, lane, number)

    def _draw_stagger(self, lane: int) -> int:
        """Shifts a lane's windows, so that the lanes do not all come to new shards in the same step."""
        return int(_philox("stagger", *self._key, lane).random_raw(1)[0] % self.window) if self.shuffle else 0

    def _locate(self, positions: IntArray) -> IntArray:
        """Positions on the line of permuted shards -> numbers of samples in the order of the manifest."""
        rank = np.searchsorted(self._line, positions, "right") - 1
        samples: IntArray = self._first_sample[rank] + positions - self._line[rank]
        return samples


def _philox(*key: str | int) -> np.random.Philox:
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    return np.random.Philox(key=np.frombuffer(digest, "<u8"))


def _permutation(n: int, *key: str | int) -> IntArray:
    """A random permutation of ``n`` that no version of NumPy may change.

    NumPy promises the streams of its bit generators, but not what ``Generator.permutation`` makes of them (NEP 19).
    """
    return np.argsort(_philox(*key).random_raw(n), kind="stable")
