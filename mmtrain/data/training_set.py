"""The data sets that a run trains on: opened wherever they lie, filtered, and planned as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mmtrain.data.download import default_cache_dir
from mmtrain.data.fetch.cache import ShardCache
from mmtrain.data.fetch.open import open_data_set
from mmtrain.data.fetch.prefetch import Prefetcher
from mmtrain.data.fetch.reader import ShardReader
from mmtrain.data.plan.epoch import EpochPlan, Tail
from mmtrain.data.plan.mixture import Mixture
from mmtrain.data.plan.order import Shuffle
from mmtrain.data.plan.packing import Packing
from mmtrain.data.plan.share import Plan
from mmtrain.data.plan.stream import Endless, LaneStream, StreamPlan
from mmtrain.data.progress import progress_bar
from mmtrain.data.shards.index import ShardIndex
from mmtrain.data.shards.manifest import Manifest
from mmtrain.data.shards.select import Selection
from mmtrain.errors import ConfigError, DataError, did_you_mean

TOKENS = "num_tokens"
"""The column of the index that counts a document's tokens."""

TrainTail = Tail | Literal["carry"]


@dataclass(frozen=True)
class Cache:
    """Where shards that lie elsewhere are kept.

    Attributes:
        dir: Folder on a disk of the node; None takes ``shards`` in the folder of downloads.
        max_gb: Disk that they may take, in units of 10^9 bytes; None for no cap.
    """

    dir: str | None = None
    max_gb: float | None = None


@dataclass(frozen=True)
class Order:
    """How a run goes through its samples.

    Attributes:
        global_batch_size: Samples of a step, over all ranks.
        seed: Seed of the order.
        lanes: Parts of a data set that are read side by side.
        window: Samples of a lane that are shuffled together.
        shuffle: ``block`` shuffles one window after another, ``slide`` moves each sample within a window around it.
        tail: What becomes of an epoch's last, short batch: ``pad``, ``drop``, or ``carry`` it into the next epoch.
    """

    global_batch_size: int
    seed: int
    lanes: int
    window: int
    shuffle: Shuffle
    tail: TrainTail


class TrainingSet:
    """One data set, or a mixture of several.

    Args:
        shards: Where each data set lies, by name: a folder, a pattern or a URL, as `open_data_set` takes it.
        weights: Share of the samples that each of several data sets gives, up to a common factor; None takes their
            numbers of samples.
        filters: Predicates on the columns of the index, such as ``width >= 200``; all must hold.
        cache: Where remote shards are kept.

    Attributes:
        readers: Reader of each data set, by name.

    Raises:
        ConfigError: The weights do not fit the data sets.
        DataError: A data set cannot be opened, or a filter keeps nothing.
    """

    def __init__(
        self,
        shards: Mapping[str, str | Path],
        *,
        weights: Mapping[str, float] | None = None,
        filters: Sequence[str] = (),
        cache: Cache = Cache(),
    ) -> None:
        _check_weights(shards, weights)
        self.readers = {name: _open(spec, filters, cache) for name, spec in shards.items()}
        self._weights = weights

    @property
    def fingerprints(self) -> dict[str, str]:
        """sha256 of the samples of each data set: ``train``, or ``train/<name>`` of several."""
        if len(self.readers) == 1:
            (reader,) = self.readers.values()
            return {"train": reader.fingerprint}
        return {f"train/{name}": reader.fingerprint for name, reader in self.readers.items()}

    def plan(self, order: Order, rank: int, world_size: int) -> Plan:
        """The batches of a rank.

        Raises:
            ConfigError: The batch does not divide, or several data sets are to have an epoch's edge.
        """
        sizes = [reader.sizes for reader in self.readers.values()]
        slots = {"global_batch_size": order.global_batch_size, "rank": rank, "world_size": world_size}
        if len(sizes) == 1 and order.tail != "carry":
            return EpochPlan(
                sizes[0],
                seed=order.seed,
                lanes=order.lanes,
                window=order.window,
                shuffle=order.shuffle,
                tail=order.tail,
                **slots,
            )
        if order.tail != "carry":
            reason = f"a mixture has no epoch whose end could {order.tail} a batch: each data set has its own"
            raise ConfigError(reason, where="data.tail", mend="set data.tail=carry")
        streams = [self._endless(order, source) for source in range(len(sizes))]
        return self._mixed(streams, [len(reader) for reader in self.readers.values()], order, slots)

    def packed_plan(self, order: Order, rank: int, world_size: int, *, row_length: int, rows: int) -> StreamPlan:
        """The batches of a rank, of rows that are packed from documents; ``global_batch_size`` counts rows.

        Args:
            order: How the documents are gone through; there is no epoch's end, so ``tail`` is not looked at.
            rank: The rank.
            world_size: Number of ranks.
            row_length: Tokens of a row.
            rows: Rows that are packed together, as in `Packing`.

        Raises:
            ConfigError: The batch does not divide, or a setting is out of range.
            DataError: A data set does not count its tokens, or has none.
        """
        streams, tokens = [], []
        for source, (name, reader) in enumerate(self.readers.items()):
            totals = token_totals(reader.manifest, name)
            lengths = partial(token_counts, reader)
            documents = self._endless(order, source)
            streams.append(Packing(documents, totals, lengths, row_length=row_length, rows=rows))
            tokens.append(sum(totals))
        slots = {"global_batch_size": order.global_batch_size, "rank": rank, "world_size": world_size}
        return self._mixed(streams, tokens, order, slots)

    def lookahead(self, plan: Plan) -> Prefetcher | None:
        """What fetches remote shards ahead of the plan; None where all lie here."""
        readers = list(self.readers.values())
        return Prefetcher(plan, readers) if any(isinstance(reader.store, ShardCache) for reader in readers) else None

    def _endless(self, order: Order, source: int) -> Endless:
        sizes = list(self.readers.values())[source].sizes
        return Endless(
            sizes, seed=order.seed, lanes=order.lanes, window=order.window, shuffle=order.shuffle, source=source
        )

    def _mixed(
        self, streams: Sequence[LaneStream], amounts: Sequence[int], order: Order, slots: Mapping[str, int]
    ) -> StreamPlan:
        if len(streams) == 1:
            return StreamPlan(streams[0], **slots)
        weights = self._weights or dict(zip(self.readers, amounts, strict=True))
        return StreamPlan(Mixture(streams, [weights[name] for name in self.readers], seed=order.seed), **slots)


def token_totals(manifest: Manifest, name: str) -> list[int]:
    """Tokens of each shard of the data set ``name``.

    Raises:
        DataError: They were not counted.
    """
    for shard in manifest.shards:
        if TOKENS not in shard.totals:
            mend = f"python -m mmtrain data index --columns {TOKENS} SHARDS, or pack them: data pack text"
            reason = f"the tokens of the data set {name!r} were not counted"
            raise DataError(reason, where=f"{manifest.path}, shard {shard.name}", mend=mend)
    return [shard.totals[TOKENS] for shard in manifest.shards]


def token_counts(reader: ShardReader, shard: int) -> NDArray[np.uint32]:
    """Tokens of each document of a shard, from its index."""
    if isinstance(reader.store, ShardCache):
        return reader.store.index(shard).column(TOKENS)
    return ShardIndex(reader.manifest.shard_path(shard)).column(TOKENS)


def _open(spec: str | Path, filters: Sequence[str], cache: Cache) -> ShardReader:
    folder = Path(cache.dir) if cache.dir is not None else default_cache_dir() / "shards"
    max_bytes = int(cache.max_gb * 1e9) if cache.max_gb is not None else None
    with progress_bar("Indexing shards") as progress:
        manifest, store = open_data_set(spec, folder, max_bytes, progress=progress)
        if store is not None and filters:
            store.fetch_indexes(progress)
    selection = Selection(manifest, filters, store.index if store is not None else None) if filters else None
    return ShardReader(manifest, store=store, select=selection)


def _check_weights(shards: Mapping[str, object], weights: Mapping[str, float] | None) -> None:
    if weights is None:
        return
    for name in weights:
        if name not in shards:
            raise ConfigError(f"no data set is called {name!r}", where="data.weights", mend=did_you_mean(name, shards))
    if missing := [name for name in shards if name not in weights]:
        mend = f"give it one: data.weights.{missing[0]}=1.0"
        raise ConfigError(f"the data set {missing[0]!r} has no weight", where="data.weights", mend=mend)
