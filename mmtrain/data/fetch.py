"""Reads single samples out of shards: stateless, verified, one system call a sample."""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import Any

import numpy as np
import xxhash

from mmtrain.data.index import RawSample, ShardIndex
from mmtrain.data.manifest import Manifest
from mmtrain.errors import DataError


class ShardReader:
    """Random access to the samples of a data set.

    Files open at first use and few stay open. Reads carry their position (``pread``), so a reader may be forked; it may
    be pickled too, and opens its files anew.

    Args:
        manifest: The data set.
        verify: Whether each sample's bytes are checked against the index (xxh3, about 0.1 us per kB).
        max_open: Shards held open.
    """

    def __init__(self, manifest: Manifest, *, verify: bool = True, max_open: int = 64) -> None:
        self.manifest = manifest
        self.verify = verify
        self.max_open = max_open
        self._ends = np.cumsum(manifest.sizes)
        self._open: OrderedDict[int, _OpenShard] = OrderedDict()

    def __len__(self) -> int:
        return self.manifest.samples

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}

    def read(self, sample: int) -> RawSample:
        """The sample's members as bytes, by extension, and its ``__key__``.

        Args:
            sample: Its number in the order of the manifest.

        Raises:
            DataError: The shard is missing, truncated or replaced, or the sample's bytes changed.
        """
        shard, index = self._locate(sample)
        return self._shard(shard).read(index, self.verify)

    def where(self, sample: int) -> str:
        """The shard and key of a sample, for messages."""
        shard, index = self._locate(sample)
        return self._shard(shard).where(index)

    def _locate(self, sample: int) -> tuple[int, int]:
        shard = int(np.searchsorted(self._ends, sample, "right"))
        return shard, int(sample - self._ends[shard] + self.manifest.shards[shard].samples)

    def _shard(self, shard: int) -> _OpenShard:
        if shard in self._open:
            self._open.move_to_end(shard)
        else:
            self._open[shard] = _OpenShard(self.manifest, shard)
            if len(self._open) > self.max_open:
                self._open.popitem(last=False)
        return self._open[shard]


class _OpenShard:
    def __init__(self, manifest: Manifest, shard: int) -> None:
        info = manifest.shards[shard]
        self.path = manifest.shard_path(shard)
        try:
            self._file = self.path.open("rb", buffering=0)
        except OSError as error:
            reason = (
                "a shard is missing" if isinstance(error, FileNotFoundError) else f"a shard cannot be opened: {error}"
            )
            raise DataError(reason, where=str(self.path), mend="restore the shard") from None
        size = os.fstat(self._file.fileno()).st_size
        if size != info.bytes:
            what = "truncated" if size < info.bytes else "replaced"
            reason = f"the shard was {what}: it has {size} bytes, the manifest says {info.bytes}"
            raise DataError(reason, where=str(self.path), mend=self._mend(manifest))
        self.index = ShardIndex(self.path)
        if self.index.info != info:
            reason = "the shard was replaced: its index and the manifest disagree"
            raise DataError(reason, where=str(self.path), mend=self._mend(manifest))

    def _mend(self, manifest: Manifest) -> str:
        return f"restore the shard, or delete {manifest.path.name} and index the data set anew"

    def where(self, index: int) -> str:
        return f"{self.path}, key {self.index.key(index)}"

    def read(self, index: int, verify: bool) -> RawSample:
        start, stop = self.index.span(index)
        try:
            data = os.pread(self._file.fileno(), stop - start, start)
        except OSError as error:
            raise DataError(
                f"a sample cannot be read: {error}", where=self.where(index), mend="restore the shard"
            ) from None
        if len(data) != stop - start:
            reason = f"the shard was truncated while in use: {len(data)} of {stop - start} bytes of a sample are left"
            raise DataError(reason, where=self.where(index), mend="restore the shard")
        if verify and xxhash.xxh3_64_intdigest(data) != self.index.checksum(index):
            reason = (
                "a sample's bytes differ from its checksum in the index (a damaged disk or copy, or a replaced shard)"
            )
            mend = "restore the shard, or index the data set anew if it was changed on purpose"
            raise DataError(reason, where=self.where(index), mend=mend)
        return self.index.cut(index, data)
