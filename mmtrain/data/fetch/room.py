"""Keeps a folder of cached shards under a cap, across all processes of a node."""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_DAY = 86400.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Held:
    path: Path
    bytes: int
    used: float


class Room:
    """The disk that cached shards may take.

    Attributes:
        shards: The folder of whole shards.
        incoming: The folder of those that are being downloaded; each ends in the size that it will have.

    Args:
        folder: The cache.
        max_bytes: The cap; None for none.
        own: File names of the data set's shards, among others that may lie there.
    """

    def __init__(self, folder: Path, max_bytes: int | None, own: frozenset[str]) -> None:
        self.folder = folder
        self.shards, self.incoming = folder / "shards", folder / "incoming"
        self.max_bytes = max_bytes
        self._own = own
        self._finished: dict[str, None] = {}
        self._warned = False

    def finish(self, name: str) -> None:
        """Notes that a shard is needed no more for now."""
        self._finished.pop(name, None)
        self._finished[name] = None

    def reserve(self, name: str, size: int) -> Path:
        """Evicts until a shard of ``size`` bytes fits. Returns the file to download it to, which counts as whole."""
        part = self.incoming / f"{name}.{size}"
        if self.max_bytes is not None:
            with self._alone():
                self._evict(size, part, self.max_bytes)
                part.touch()
        self._finished.pop(name, None)
        return part

    def _evict(self, size: int, part: Path, max_bytes: int) -> None:
        shards, downloading = self._scan(part)
        total = size + downloading + sum(held.bytes for held in shards)
        for held in self._in_order(shards):
            if total <= max_bytes:
                return
            if _delete_unused(held.path):
                total -= held.bytes
        if total > max_bytes and not self._warned:
            self._warned = True
            log.warning(
                "the cache of shards %s holds at most %.2f GB, and the shards in use need %.2f GB: it grows beyond its "
                "cap. Set data.cache.max_gb=%.2f or more, or lower data.lanes, data.window, or the shards ahead.",
                *(self.folder, max_bytes / 1e9, total / 1e9, total * 1.1 / 1e9 + 0.005),
            )

    def _scan(self, part: Path) -> tuple[list[_Held], int]:
        """The shards there, and the bytes that downloads other than ``part`` will take."""
        # These first: a download that ends meanwhile is counted twice then, the other way round it would not be at all.
        sizes = [path.suffix[1:] for path in self.incoming.iterdir() if path != part]
        shards = []
        for entry in os.scandir(self.shards):
            with suppress(FileNotFoundError):
                state = entry.stat()
                shards.append(_Held(Path(entry.path), state.st_size, state.st_mtime))
        return shards, sum(int(size) for size in sizes if size.isdecimal())

    def _in_order(self, shards: Iterable[_Held]) -> list[_Held]:
        """What to evict first: what other runs left a day ago, then what is finished, then what was used long ago."""
        finished = {name: number for number, name in enumerate(list(self._finished))}
        yesterday = time.time() - _DAY

        def rank(held: _Held) -> tuple[int, float]:
            if held.path.name not in self._own and held.used < yesterday:
                return 0, held.used
            if held.path.name in finished:
                return 1, -finished[held.path.name]
            return 2, held.used

        return sorted(shards, key=rank)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with (self.folder / "room.lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(file, fcntl.LOCK_UN)


def _delete_unused(path: Path) -> bool:
    """Deletes a shard, unless a process of this node holds it open."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
    except OSError:  # in use, or deleted by hand
        return False
    return True
