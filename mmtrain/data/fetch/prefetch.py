"""Downloads shards ahead of their use, in the order in which the plan will ask for them."""

from __future__ import annotations

import copy
import logging
import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from io import FileIO

import numpy as np

from mmtrain.data.fetch.cache import ShardCache, release
from mmtrain.data.fetch.reader import ShardReader
from mmtrain.data.plan.share import Plan
from mmtrain.errors import DataError

log = logging.getLogger(__name__)

_GAP = 12

_Shard = tuple[int, int]
"""Numbers of a data set and of a shard of it."""


class Prefetcher:
    """Reads the plan ahead of the consumer, and has the caches hold the shards that it names.

    A shard is held, safe from eviction, from when it is in sight until the last step in sight that needs it is over.
    A shard that cannot be fetched is not this object's business: the reader that needs it raises the error.

    Threads start at the first `advance`, in the process that calls it, and never hold up the end of the program. Call
    it after workers are forked: what they inherit of open files keeps the disk of evicted shards until they end.

    Args:
        plan: Says which samples this rank takes, and when.
        readers: The plan's data sets, by number. Those without a `ShardCache` are passed over.
        shards_ahead: Shards held beyond those that the present step needs.
        threads: Downloads at a time.
    """

    def __init__(self, plan: Plan, readers: Sequence[ShardReader], *, shards_ahead: int = 4, threads: int = 2) -> None:
        self._plan = plan
        self._readers = readers
        self._shards_ahead = shards_ahead
        self._num_threads = threads
        self._lookahead: _Lookahead | None = None

    def advance(self, epoch: int, step: int) -> None:
        """Says that all batches before ``step`` of ``epoch`` were handed out."""
        now = epoch * len(self._plan) + step
        if self._lookahead is not None and now < self._lookahead.now:
            self.close()
        if self._lookahead is None:
            self._lookahead = _Lookahead(self._plan, self._readers, now, self._shards_ahead)
            self._lookahead.start(self._num_threads)
        self._lookahead.move(now)

    def close(self) -> None:
        """Lets all shards go. A download that is under way ends by itself, in its thread."""
        if self._lookahead is not None:
            self._lookahead.close()
            self._lookahead = None


@dataclass
class _Use:
    """Steps in sight at which the plan first and last asks for a shard."""

    first: int
    last: int


class _Lookahead:
    """One thread that reads the plan, and some that download. Steps are counted over all epochs."""

    def __init__(self, plan: Plan, readers: Sequence[ShardReader], now: int, shards_ahead: int) -> None:
        self.now = now
        self._next = now
        self._rows = 0
        self._plan = copy.deepcopy(plan)  # a plan keeps what it worked out last; another place would push that out
        self._remote = {
            number: (reader, reader.store)
            for number, reader in enumerate(readers)
            if isinstance(reader.store, ShardCache)
        }
        self._num_shards = sum(len(reader.manifest.shards) for reader, _ in self._remote.values())
        self._shards_ahead = shards_ahead
        self._uses: dict[_Shard, _Use] = {}
        self._held: dict[_Shard, FileIO] = {}
        self._lock = threading.Lock()
        self._moved = threading.Event()
        self._closed = False
        self._wanted: queue.SimpleQueue[_Shard | None] = queue.SimpleQueue()
        self._downloads = 0

    def start(self, threads: int) -> None:
        self._downloads = threads
        threading.Thread(target=self._read_plan, name="prefetch-plan", daemon=True).start()
        for number in range(threads):
            threading.Thread(target=self._download, name=f"prefetch-{number}", daemon=True).start()

    def move(self, now: int) -> None:
        self.now = now
        self._moved.set()

    def close(self) -> None:
        self._closed = True
        self._moved.set()
        for _ in range(self._downloads):
            self._wanted.put(None)
        with self._lock:
            for file in self._held.values():
                release(file)
            self._held.clear()

    def _read_plan(self) -> None:
        try:
            while self._remote and not self._closed:
                self._next = max(self._next, self.now)
                while not self._closed and self._sees_too_little():
                    self._read_step()
                self._release()
                self._moved.wait()
                self._moved.clear()
        except Exception:  # of the plan: its consumer will raise it
            log.warning("shards are no longer fetched ahead", exc_info=True)

    def _sees_too_little(self) -> bool:
        in_sight = self._next - self.now
        ahead = sum(use.first > self.now for use in self._uses.values())
        in_use = len(self._uses) - ahead
        # Of k shards in use, a sample is of a given one with probability 1 / k; of 12 k samples in a row none is with
        # probability exp(-12). A shard that is not in sight then is done with.
        if in_sight * max(1, self._rows) <= _GAP * in_use:
            return True
        all_in_sight = len(self._uses) == self._num_shards or in_sight > len(self._plan)
        return ahead < self._shards_ahead and not all_in_sight

    def _read_step(self) -> None:
        share = self._plan.share(*divmod(self._next, len(self._plan)))
        self._rows = len(share)
        for source, (reader, _) in self._remote.items():
            shards, places = np.unique(reader.shards_of(share.sample[share.source == source]), return_index=True)
            for shard in shards[np.argsort(places)].tolist():  # in the order of first use
                if use := self._uses.get((source, shard)):
                    use.last = self._next
                else:
                    self._uses[source, shard] = _Use(self._next, self._next)
                    self._wanted.put((source, shard))
        self._next += 1

    def _release(self) -> None:
        """Lets shards go that no step in sight needs."""
        for name in [name for name, use in self._uses.items() if use.last < self.now]:
            with self._lock:
                del self._uses[name]
                if file := self._held.pop(name, None):
                    release(file)
            source, shard = name
            self._remote[source][1].finish(shard)

    def _download(self) -> None:
        while (name := self._wanted.get()) is not None and not self._closed:
            source, shard = name
            if name not in self._uses:  # over already
                continue
            try:
                file, _ = self._remote[source][1].open(shard)
            except DataError as error:
                log.debug("a shard cannot be prefetched: %s", error)
                continue
            with self._lock:
                if self._closed or name not in self._uses:
                    release(file)
                else:
                    self._held[name] = file
