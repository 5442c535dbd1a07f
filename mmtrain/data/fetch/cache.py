"""Remote shards on the node's own disk: each is downloaded once, whoever of the node's processes asks for it first.

A shard bears the beginning of its sha256 in its name, so that data sets may share a folder, and none takes another's
shard. Two locks, both of the system and therefore gone with the process that holds them: an exclusive one on a file of
its own while a shard is downloaded, and a shared one on the shard itself while it is open. Who evicts takes the latter
exclusively or passes on.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from io import FileIO
from pathlib import Path
from typing import Literal

from mmtrain.data.fetch.room import Room
from mmtrain.data.fetch.store import open_beside
from mmtrain.data.fetch.transfer import PATIENCE, Patience, download
from mmtrain.data.shards.index import SUFFIX, ShardIndex, index_path, write_index
from mmtrain.data.shards.manifest import Manifest, Progress, file_name, join, require_same
from mmtrain.data.shards.sidecar import ShardInfo
from mmtrain.errors import DataError

log = logging.getLogger(__name__)

Verify = Literal["sha256", "size"]

_INDEXES_AT_A_TIME = 16


class ShardCache:
    """The shards of a data set, fetched to a folder of this node as they are asked for.

    It may be forked and pickled; nothing of it lives in memory alone.

    Args:
        manifest: The data set. Shards that lie beside its file are read there.
        folder: On a disk of the node; network file systems are slow at it, and some do not lock.
        max_bytes: Disk that shards in the folder may take; their indexes, some 50 bytes a sample, stay. Shards in use
            are never evicted: where they need more, they get it, and one warning says how much.
        patience: How often a download is tried.
        verify: What a download is compared with the manifest by.
    """

    mend = "delete the file: it is fetched again"

    def __init__(
        self,
        manifest: Manifest,
        folder: Path,
        *,
        max_bytes: int | None = None,
        patience: Patience = PATIENCE,
        verify: Verify = "sha256",
    ) -> None:
        self.manifest = manifest
        self.folder = folder
        self.capped = max_bytes is not None
        self._verify = verify
        self._patience = patience
        self._locks, self._indexes = folder / "locks", folder / "indexes"
        own = frozenset(map(cached_name, manifest.shards)) if self.capped else frozenset()
        self._room = Room(folder, max_bytes, own)
        try:
            for made in (self._locks, self._indexes, self._room.shards, self._room.incoming):
                made.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = f"the cache's folder cannot be made: {error.strerror}"
            raise DataError(
                reason, where=str(folder), mend="set data.cache.dir to a folder that you may write"
            ) from None
        self._sweep()

    def open(self, shard: int) -> tuple[FileIO, Path]:
        """A shard, and the file of its index. The shard is not evicted until its file is closed.

        Raises:
            DataError: It cannot be fetched.
        """
        if self.manifest.shard_url(shard) is None:
            return open_beside(self.manifest, shard)
        file, index = self._stored(shard), self._indexed(shard)
        if file is None or index is None:
            with self._alone(shard):
                file = self._stored(shard) or self._fetch(shard)
                index = self._indexed(shard) or self._fetch_index(shard) or self._make_index(shard)
        return file, index

    def index(self, shard: int) -> ShardIndex:
        """A shard's index; the shard itself is fetched only where none lies beside it.

        Raises:
            DataError: It cannot be fetched.
        """
        return ShardIndex.read(self._index_file(shard))

    def fetch_indexes(self, progress: Progress | None = None) -> None:
        """Fetches the indexes of all shards, many at a time: a choice by columns needs every one.

        Args:
            progress: Told after each index.

        Raises:
            DataError: One cannot be fetched.
        """
        shards = range(len(self.manifest.shards))
        with ThreadPoolExecutor(_INDEXES_AT_A_TIME) as pool:
            for done, _ in enumerate(pool.map(self._index_file, shards), 1):
                if progress is not None:
                    progress(done, len(shards))

    def finish(self, shard: int) -> None:
        """Says that this process needs a shard no more for now: such ones are evicted first, the last of them first.

        They are needed again in the next epoch, in another order: on average, the one that was finished last is needed
        the latest. To evict the one that was finished first would be to evict, at its best, what is needed next.
        """
        self._room.finish(cached_name(self.manifest.shards[shard]))

    def _index_file(self, shard: int) -> Path:
        if self.manifest.shard_url(shard) is None:
            return index_path(self.manifest.shard_path(shard))
        index = self._indexed(shard)
        if index is None:
            with self._alone(shard):
                index = self._indexed(shard) or self._fetch_index(shard)
        if index is None:
            file, index = self.open(shard)
            file.close()
        return index

    def _path(self, shard: int) -> Path:
        return self._room.shards / cached_name(self.manifest.shards[shard])

    def _stored(self, shard: int) -> FileIO | None:
        """The shard if it lies in the cache, whole and locked."""
        path = self._path(shard)
        try:
            file = FileIO(path)
        except FileNotFoundError:
            return None
        fcntl.flock(file, fcntl.LOCK_SH)
        state = os.fstat(file.fileno())
        if state.st_nlink == 0 or state.st_size != self.manifest.shards[shard].bytes:  # evicted meanwhile, or damaged
            file.close()
            return None
        os.utime(file.fileno())
        return file

    def _fetch(self, shard: int) -> FileIO:
        info, path, url = self.manifest.shards[shard], self._path(shard), self.manifest.shard_url(shard)
        assert url is not None
        part = self._room.reserve(path.name, info.bytes)
        sha256 = info.sha256 if self._verify == "sha256" else None
        download(url, part, size=info.bytes, sha256=sha256, patience=self._patience)
        file = FileIO(part)
        fcntl.flock(file, fcntl.LOCK_SH)  # before it bears a name under which it could be evicted
        part.replace(path)
        return file

    def _indexed(self, shard: int) -> Path | None:
        """The shard's index if it is here: beside the manifest, or in the cache."""
        places = (index_path(self.manifest.shard_path(shard)), self._index_path(shard))
        return next((place for place in places if place.exists()), None)

    def _index_path(self, shard: int) -> Path:
        return index_path(self._indexes / cached_name(self.manifest.shards[shard]))

    def _fetch_index(self, shard: int) -> Path | None:
        """Fetches the index that lies beside the remote shard; None where there is none that fits."""
        path = self._index_path(shard)
        part = self._room.incoming / path.name
        patience = replace(self._patience, retries=1)  # a command cannot say that there is none
        try:
            source = index_url(self.manifest, shard)
            download(source, part, patience=patience)
            require_same(ShardIndex.read(part).info, self.manifest.shards[shard], source)
        except DataError as error:
            log.info("no index of %s is fetched: %s", self.manifest.shards[shard].name, error.message)
            part.unlink(missing_ok=True)
            return None
        return part.replace(path)

    def _make_index(self, shard: int) -> Path:
        path = self._path(shard)
        write_index(path)
        return index_path(path).replace(self._index_path(shard))

    @contextmanager
    def _alone(self, shard: int) -> Iterator[None]:
        """Holds the lock on a shard's download. Who waited for one that failed fails with it, not after it."""
        asked = time.time()
        with self._lock_path(self._path(shard).name).open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                file.seek(0)
                failure = json.loads(file.read() or b"null")
                if failure is not None and failure["time"] > asked:
                    raise DataError(failure["message"], where=failure["where"], mend=failure["mend"])
                file.truncate(0)
                yield
            except DataError as error:
                told = {"time": time.time(), "message": error.message, "where": error.where, "mend": error.mend}
                file.truncate(0)
                file.write(json.dumps(told).encode())
                file.flush()
                raise
            finally:
                fcntl.flock(file, fcntl.LOCK_UN)  # not by closing: a process forked meanwhile holds the file open, too

    def _lock_path(self, name: str) -> Path:
        return self._locks / f"{name}.lock"

    def _sweep(self) -> None:
        """Deletes what processes that were killed have left half downloaded."""
        for part in self._room.incoming.iterdir():
            with self._lock_path(part.stem).open("ab") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                part.unlink(missing_ok=True)
                fcntl.flock(file, fcntl.LOCK_UN)


def release(file: FileIO) -> None:
    """Closes a shard, so that it can be evicted even where a process that was forked meanwhile holds it open, too."""
    fcntl.flock(file, fcntl.LOCK_UN)
    file.close()


def cached_name(info: ShardInfo) -> str:
    """A shard's name in a cache: ``a.tar`` -> ``0123456789abcdef-a.tar``."""
    name = re.sub(r"[^\w.+-]", "_", file_name(info.name))
    return f"{info.sha256[:16]}-{name[-100:]}"


def index_url(manifest: Manifest, shard: int) -> str:
    """Where the index of a remote shard would lie: beside it."""
    name, url = manifest.shards[shard].name, manifest.shard_url(shard)
    if name != url:
        assert manifest.base is not None
        return join(manifest.base, file_name(name) + SUFFIX)
    head, stem, tail = url.rpartition(file_name(url))
    return head + stem + SUFFIX + tail
