"""Reads single samples out of shards: stateless, verified, one system call a sample."""

from __future__ import annotations

import os
import threading
import time
from bisect import bisect_right
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mmtrain.data.fetch.store import LocalStore, ShardStore
from mmtrain.data.shards.columns import RawSample
from mmtrain.data.shards.index import ShardIndex
from mmtrain.data.shards.manifest import Manifest, require_same
from mmtrain.errors import DataError

_REMEMBER_S = 60.0
# Between two openings, a process reads each shard in use several times.
_IDLE_OPENINGS = 4


class Select(Protocol):
    """Some of the samples of each shard."""

    fingerprint: str
    """sha256 over the data set and the choice."""

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Samples of each shard that are selected."""

    def index(self, shard: int, position: int) -> int:
        """The number, within its shard, of the selected sample at ``position``."""


class ShardReader:
    """Random access to the samples of a data set.

    Files open at first use and few stay open. Reads carry their position (``pread``), so that threads may share a
    reader, and a process that holds one may fork; it may be pickled too, and opens its files anew.

    Args:
        manifest: The data set.
        store: Where its shards are opened; the manifest's folder if None.
        select: The samples to read, numbered anew; all if None.
        verify: Whether each sample's bytes are checked against the index (xxh3, about 0.1 us per kB).
        max_open: Shards held open.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        store: ShardStore | None = None,
        select: Select | None = None,
        verify: bool = True,
        max_open: int = 64,
    ) -> None:
        self.manifest = manifest
        self.store = store or LocalStore(manifest)
        self.verify = verify
        self.max_open = max_open
        self._select = select
        sizes = manifest.sizes if select is None else select.sizes
        self._ends_array = np.cumsum(sizes)
        self._ends: list[int] = self._ends_array.tolist()  # for one sample, bisect is ten times faster than NumPy
        self._starts = [0, *self._ends]
        self._table = _Table()

    def __len__(self) -> int:
        return self._starts[-1]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Samples of each shard, of those selected."""
        return np.diff(self._starts)

    @property
    def fingerprint(self) -> str:
        """sha256 of the samples that can be read."""
        return self.manifest.fingerprint if self._select is None else self._select.fingerprint

    def read(self, sample: int) -> RawSample:
        """The sample's members as bytes, by extension, and its ``__key__``.

        Args:
            sample: Its number in the order of the manifest, of those selected.

        Raises:
            DataError: The shard is missing, truncated or replaced, or the sample's bytes changed.
        """
        number = int(sample)  # a NumPy integer makes each comparison of bisect slow
        shard = bisect_right(self._ends, number)
        opened = self._table.shards.get(shard) or self._open(shard)
        opened.used = self._table.openings
        position = number - self._starts[shard]
        return opened.read(position if self._select is None else self._select.index(shard, position), self.verify)

    def key(self, sample: int) -> str:
        """The sample's key.

        Raises:
            DataError: The shard is missing, truncated or replaced.
        """
        opened, index = self._locate(sample)
        return opened.index.key(index)

    def where(self, sample: int) -> str:
        """The shard and key of a sample, for messages; where the shard cannot be opened, its name and the number."""
        try:
            opened, index = self._locate(sample)
        except DataError:
            return f"{self.manifest.shards[bisect_right(self._ends, sample)].name}, sample {sample}"
        return opened.where(index)

    def shards_of(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """The number of the shard that each sample lies in, of the same shape."""
        return np.searchsorted(self._ends_array, samples, "right")

    def _locate(self, sample: int) -> tuple[_OpenShard, int]:
        shard = bisect_right(self._ends, sample)
        position = int(sample) - self._starts[shard]
        index = position if self._select is None else self._select.index(shard, position)
        return self._table.shards.get(shard) or self._open(shard), index

    def _open(self, shard: int) -> _OpenShard:
        self._table.raise_if_failed(shard)
        try:
            opened = _OpenShard(self.store, shard)
        except DataError as error:
            self._table.failures[shard] = (time.monotonic() + _REMEMBER_S, error)
            raise
        return self._table.enter(shard, opened, self.max_open, _IDLE_OPENINGS if self.store.capped else None)


class _Table:
    """The open shards of a process. Only who opens one takes the lock: to look one up is a single, atomic step."""

    def __init__(self) -> None:
        self.shards: dict[int, _OpenShard] = {}
        self.failures: dict[int, tuple[float, DataError]] = {}
        self.openings = 0
        self._lock = threading.Lock()
        self._process = os.getpid()

    def __reduce__(self) -> tuple[type[_Table], tuple[()]]:
        return _Table, ()

    def enter(self, shard: int, opened: _OpenShard, max_open: int, max_idle: int | None) -> _OpenShard:
        """Takes up a shard, or gives the one that another thread opened meanwhile; drops those used the longest ago.

        A dropped file closes when the last thread that reads from it has done so.
        """
        if self._process != os.getpid():  # forked, perhaps while another thread held the lock
            self._lock = threading.Lock()
            self._process = os.getpid()
        with self._lock:
            opened = self.shards.setdefault(shard, opened)
            self.openings += 1
            opened.used = self.openings
            by_use = sorted(self.shards, key=lambda number: self.shards[number].used)
            for count, number in enumerate(by_use[:-1]):
                idle = self.openings - self.shards[number].used
                if len(by_use) - count > max_open or (max_idle is not None and idle > max_idle):
                    del self.shards[number]
        return opened

    def raise_if_failed(self, shard: int) -> None:
        """Fails as the last time, for a while: each sample of a missing shard would look for it again."""
        until, error = self.failures.get(shard, (0.0, None))
        if error is not None and time.monotonic() < until:
            raise DataError(error.message, where=error.where, mend=error.mend)


class _OpenShard:
    def __init__(self, store: ShardStore, shard: int) -> None:
        info = store.manifest.shards[shard]
        self._file, index_file = store.open(shard)
        self.path = str(self._file.name)
        self.used = 0
        self._mend = store.mend
        self._descriptor = self._file.fileno()
        size = os.fstat(self._descriptor).st_size
        if size != info.bytes:
            what = "truncated" if size < info.bytes else "replaced"
            reason = f"the shard was {what}: it has {size} bytes, the manifest says {info.bytes}"
            raise DataError(reason, where=self.path, mend=f"{self._mend}, or index the data set anew")
        self.index = ShardIndex.read(index_file)
        require_same(self.index.info, info, self.path)

    def where(self, index: int) -> str:
        return f"{self.path}, key {self.index.key(index)}"

    def read(self, index: int, verify: bool) -> RawSample:
        try:
            return self.index.fetch(self._descriptor, index, verify=verify)
        except OSError as error:
            raise self._error(index, f"a sample cannot be read: {error}") from None
        except ValueError as error:
            raise self._error(index, str(error)) from None

    def _error(self, index: int, reason: str) -> DataError:
        mend = f"{self._mend}, or index the data set anew if it was changed on purpose"
        return DataError(reason, where=self.where(index), mend=mend)
