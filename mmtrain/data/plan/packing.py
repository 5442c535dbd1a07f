"""Packing of documents into rows of exactly L tokens: no padding, no token lost, and random access.

The documents of a lane, epoch after epoch, form one stream of tokens. It is cut into groups of W rows. With W = 1 that
is concat-and-chunk. With W > 1 the documents of a group, cut at its edges alone, are packed by best fit: fewer of them
are cut. A row is a pure function of its group, and a group of the stream's tokens [g W L, (g + 1) W L).

To find a token costs no walk: a shuffle within blocks moves documents inside their block only, so that the tokens
before a block are those before it on the line of permuted shards. There, sums over shards find the shard, and sums over
one shard's documents find the block.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmtrain.data.plan.best_fit import best_fit
from mmtrain.data.plan.order import EpochOrder, IntArray, permutation
from mmtrain.data.plan.share import Pieces, Share, concatenate
from mmtrain.data.plan.stream import Endless
from mmtrain.errors import ConfigError, DataError

Lengths = Callable[[int], NDArray[np.unsignedinteger[Any]]]
"""The tokens of each document of a shard, from its index."""

_EMPTY_EPOCHS = 64  # epochs in which a lane may meet no token before that is an error


class Packing:
    """Packed rows of an endless stream of documents.

    Args:
        documents: The order of the documents, shuffled by ``block`` or not at all.
        totals: Tokens of each shard.
        lengths: Reads the tokens of each document of a shard.
        row_length: Tokens of a row.
        rows: Rows that are packed together. 1 cuts the concatenated documents; 64 cuts fewer documents.

    Raises:
        ConfigError: A setting is out of range.
        DataError: The documents have no tokens.
    """

    def __init__(
        self, documents: Endless, totals: ArrayLike, lengths: Lengths, *, row_length: int, rows: int = 1
    ) -> None:
        for name, number in (("row_length", row_length), ("rows", rows)):
            if number < 1:
                raise ConfigError(f"packing.{name} = {number}", where="data.packing", mend="set 1 or more")
        if documents.shuffle == "slide":
            reason = "packing cannot tell how many tokens lie before a place in a sliding shuffle"
            raise ConfigError(reason, where="data.shuffle", mend="set data.shuffle=block")
        self._totals = np.asarray(totals, np.int64)
        assert self._totals.shape == documents.sizes.shape
        if (tokens := int(self._totals.sum())) == 0:
            raise DataError("the documents have no tokens", mend="look whether their texts are empty")
        self.documents = documents
        self.lanes = documents.lanes
        self.seed = documents.seed
        self.row_length = row_length
        self.rows_per_epoch = max(1, tokens // row_length)
        self._rows = rows
        self._lengths = lengths
        self._first_sample = np.cumsum(documents.sizes) - documents.sizes
        self._passed = [[0] * self.lanes]  # tokens of each lane before epoch 0, 1, ... as far as was asked for
        self._line = lru_cache(maxsize=documents.kept_orders)(self._make_line)
        self._shard_ends = lru_cache(maxsize=2 * self.lanes + 32)(self._sum_shard)
        self._block = lru_cache(maxsize=2 * self.lanes + 8)(self._sum_block)
        self._group = lru_cache(maxsize=self.lanes + 8)(self._pack_group)

    def take(self, lane: int, start: int, stop: int) -> Share:
        """Rows ``start`` to ``stop`` of a lane."""
        if self._rows == 1:
            return self._cut(lane, start, stop)
        first, last = start // self._rows, -(-stop // self._rows)
        groups = concatenate([self._group(lane, number) for number in range(first, last)])
        return groups.rows(start - first * self._rows, stop - first * self._rows)

    @property
    def identity(self) -> Mapping[str, Any]:
        """All that the rows depend on besides the shards."""
        documents = dict(self.documents.identity)
        return {"kind": "packing", "row_length": self.row_length, "rows": self._rows, "documents": documents}

    def _cut(self, lane: int, start: int, stop: int) -> Share:
        """The rows of concat-and-chunk."""
        parts = self._parts(lane, start * self.row_length, stop * self.row_length)
        ends = np.cumsum(parts.stop - parts.start)
        begins = ends - (parts.stop - parts.start)
        rows_of_part = (ends - 1) // self.row_length - begins // self.row_length + 1
        part, number = _repeated(rows_of_part)
        row = begins[part] // self.row_length + number
        shift = parts.start[part] - begins[part]
        first = np.maximum(begins[part], row * self.row_length) + shift
        last = np.minimum(ends[part], (row + 1) * self.row_length) + shift
        return self._share(parts, part, Pieces(row, first, last), stop - start)

    def _pack_group(self, lane: int, number: int) -> Share:
        """The rows of a group, in random order: best fit puts the long documents first."""
        size = self._rows * self.row_length
        parts = self._parts(lane, number * size, (number + 1) * size)
        part, chunk = _repeated(-(-(parts.stop - parts.start) // self.row_length))
        first = parts.start[part] + chunk * self.row_length
        last = np.minimum(parts.stop[part], first + self.row_length)
        item, pieces = best_fit(last - first, rows=self._rows, capacity=self.row_length)
        pieces = Pieces(pieces.row, first[item] + pieces.start, first[item] + pieces.stop)
        to = permutation(self._rows, "rows", self.seed, self.documents.source, lane, number)
        return self._share(parts, part[item], pieces, self._rows).moved(to)

    def _share(self, parts: _Parts, part: IntArray, pieces: Pieces, rows: int) -> Share:
        source, weight = np.full(len(part), self.documents.source), np.ones(rows, np.float32)
        return Share(source, parts.epoch[part], parts.sample[part], weight, pieces)

    def _parts(self, lane: int, start: int, stop: int) -> _Parts:
        """The parts of documents that tokens ``start`` to ``stop`` of a lane's stream are made of."""
        found = []
        token = start
        while token < stop:
            epoch, passed = self._epoch_of(lane, token)
            line = self._line(epoch)
            block = self._block(epoch, lane, line.block_of(lane, token - passed))
            end = min(stop - passed, int(block.ends[-1]))
            found.append(block.parts(epoch, token - passed, end))
            token = passed + end
        return _Parts(*map(np.concatenate, zip(*found, strict=True)))

    def _epoch_of(self, lane: int, token: int) -> tuple[int, int]:
        """The epoch of a token of a lane's stream, and the lane's tokens before that epoch."""
        while self._passed[-1][lane] <= token:
            if len(self._passed) > _EMPTY_EPOCHS and self._passed[-1][lane] == self._passed[-_EMPTY_EPOCHS][lane]:
                reason = f"the documents of lane {lane} have no tokens"
                raise DataError(reason, mend="set fewer data.lanes, or leave out documents without text")
            counts = np.diff(self._line(len(self._passed) - 1).lane_edges).tolist()
            self._passed.append([before + count for before, count in zip(self._passed[-1], counts, strict=True)])
        epoch = bisect_right(self._passed, token, key=lambda passed: passed[lane]) - 1
        return epoch, self._passed[epoch][lane]

    def _make_line(self, epoch: int) -> _TokenLine:
        return _TokenLine(self.documents.order(epoch), self._totals, self._shard_ends)

    def _sum_block(self, epoch: int, lane: int, first: int) -> _Block:
        """The block of a lane's documents that starts at position ``first`` of an epoch."""
        line = self._line(epoch)
        _, samples = line.order.chunk(lane, first)
        ends = np.full(len(samples) + 1, line.before(line.order.bounds[lane] + first) - line.lane_edges[lane])
        ends[1:] += np.cumsum(self._tokens_of(samples))
        return _Block(samples, ends)

    def _tokens_of(self, samples: IntArray) -> IntArray:
        """The tokens of documents of a few shards."""
        ascending = np.argsort(samples)
        shards = np.searchsorted(self._first_sample, samples[ascending], "right") - 1
        edges = np.flatnonzero(np.diff(shards, prepend=-1, append=-1))
        tokens = np.empty(len(samples), np.int64)
        for start, stop in pairwise(edges):
            shard = int(shards[start])
            places = ascending[start:stop]
            tokens[places] = np.diff(self._shard_ends(shard))[samples[places] - self._first_sample[shard]]
        return tokens

    def _sum_shard(self, shard: int) -> IntArray:
        """Tokens of a shard before each of its documents, and all of them."""
        ends = np.zeros(int(self.documents.sizes[shard]) + 1, np.int64)
        np.cumsum(self._lengths(shard), out=ends[1:])
        if ends[-1] != self._totals[shard]:
            reason = f"shard {shard} has {ends[-1]} tokens by its index and {self._totals[shard]} by the manifest"
            raise DataError(reason, mend="delete the manifest and index the shards again")
        return ends


class _TokenLine:
    """Where an epoch's tokens lie on the line of its permuted shards.

    Args:
        order: Order of the epoch.
        totals: Tokens of each shard.
        shard_ends: Tokens of a shard before each of its documents, and all of them.
    """

    def __init__(self, order: EpochOrder, totals: IntArray, shard_ends: Callable[[int], IntArray]) -> None:
        self.order = order
        self._shard_ends = shard_ends
        self._starts = np.zeros(len(totals) + 1, np.int64)
        np.cumsum(totals[order.shards], out=self._starts[1:])
        self.lane_edges = [self.before(position) for position in order.bounds]

    def before(self, position: int) -> int:
        """Tokens before a document of the line."""
        index = int(np.searchsorted(self.order.starts, position, "right")) - 1
        if index == len(self.order.shards):
            return int(self._starts[-1])
        into = position - int(self.order.starts[index])
        return int(self._starts[index] + self._shard_ends(int(self.order.shards[index]))[into])

    def block_of(self, lane: int, token: int) -> int:
        """First position of the block that holds a token of a lane."""
        token += self.lane_edges[lane]
        index = int(np.searchsorted(self._starts, token, "right")) - 1
        ends = self._shard_ends(int(self.order.shards[index]))
        document = int(np.searchsorted(ends, token - self._starts[index], "right")) - 1
        first, _ = self.order.chunk(lane, int(self.order.starts[index]) + document - self.order.bounds[lane])
        return first


class _Parts(NamedTuple):
    """Parts of documents, in the order of the stream; each array has the shape ``(n,)``."""

    epoch: IntArray
    sample: IntArray
    start: IntArray
    stop: IntArray


class _Block(NamedTuple):
    """Documents that are shuffled together.

    Attributes:
        samples: Their numbers, in their order.
        ends: Tokens of the lane's epoch before each of them, and after the last.
    """

    samples: IntArray
    ends: IntArray

    def parts(self, epoch: int, start: int, stop: int) -> _Parts:
        """The parts that tokens ``start`` to ``stop`` of the lane's epoch are made of."""
        low = int(np.searchsorted(self.ends, start, "right")) - 1
        high = int(np.searchsorted(self.ends, stop, "left"))
        begins, ends = self.ends[low:high], self.ends[low + 1 : high + 1]
        some = ends > begins  # documents without tokens are no parts
        begins, ends = begins[some], ends[some]
        first, last = np.maximum(begins, start) - begins, np.minimum(ends, stop) - begins
        return _Parts(np.full(len(begins), epoch), self.samples[low:high][some], first, last)


def _repeated(counts: IntArray) -> tuple[IntArray, IntArray]:
    """``[2, 1] -> [0, 0, 1], [0, 1, 0]``: each number as often as it counts, and which repeat it is."""
    index = np.repeat(np.arange(len(counts)), counts)
    return index, np.arange(len(index)) - (np.cumsum(counts) - counts)[index]
