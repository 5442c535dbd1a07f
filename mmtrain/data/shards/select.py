"""A part of a data set, chosen by what its index knows of each sample, before anything is read."""

from __future__ import annotations

import hashlib
import json
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmtrain.data.shards.columns import COLUMNS
from mmtrain.data.shards.index import ShardIndex
from mmtrain.data.shards.manifest import Manifest, require_same
from mmtrain.errors import DataError, did_you_mean

_OPERATORS: Mapping[str, Callable[[Any, Any], Any]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
}
_PREDICATE = re.compile(rf"\s*(\w+)\s*({'|'.join(_OPERATORS)})\s*(-?\d{{1,18}})\s*", re.ASCII)


@dataclass(frozen=True, order=True)
class Predicate:
    """``column operator value``, as in ``width >= 64``."""

    column: str
    operator: str
    value: int

    @classmethod
    def parse(cls, text: str) -> Predicate:
        """Reads a predicate.

        Raises:
            DataError: It is none.
        """
        match = _PREDICATE.fullmatch(text)
        if match is None:
            mend = f"write COLUMN OPERATOR INTEGER, as in 'width >= 64'; operators: {' '.join(_OPERATORS)}"
            raise DataError(f"{text!r} is not a predicate on a column", where="filters", mend=mend)
        return cls(match[1], match[2], int(match[3]))

    def __str__(self) -> str:
        return f"{self.column} {self.operator} {self.value}"

    def keeps(self, index: ShardIndex) -> NDArray[np.bool_]:
        """Which samples of a shard pass, shape ``(samples,)``.

        Raises:
            DataError: The shard's index has no such column.
        """
        if self.column not in index.columns:
            where = f"filter {str(self)!r}, shard {index.info.name}"
            mend = f"python -m mmtrain data index --columns {self.column} SHARDS"
            if self.column not in COLUMNS:
                mend = did_you_mean(self.column, {*COLUMNS, *index.columns})
            raise DataError(f"the index has no column {self.column!r}", where=where, mend=mend)
        kept: NDArray[np.bool_] = _OPERATORS[self.operator](index.column(self.column).astype(np.int64), self.value)
        return kept


class Selection:
    """The samples of a data set that pass all predicates, in its order.

    Reads the shards' indexes, once, and never the shards. Keeps four bytes for each sample of a shard that is kept in
    part, nothing for one that is kept whole.

    Args:
        manifest: The data set.
        predicates: Such as ``["width >= 64", "height >= 64"]``.
        open_index: Gives the index of the shard of a number; by default what lies beside the shard.

    Attributes:
        sizes: Samples kept of each shard, int64, shape ``(shards,)``.
        fingerprint: sha256 over the data set's fingerprint and the predicates, in any order.

    Raises:
        DataError: A predicate cannot be read or names no column, no sample passes, or an index is missing or damaged.
    """

    def __init__(
        self,
        manifest: Manifest,
        predicates: Sequence[str],
        open_index: Callable[[int], ShardIndex] | None = None,
    ) -> None:
        chosen = sorted({Predicate.parse(text) for text in predicates})
        content = json.dumps([manifest.fingerprint, *map(str, chosen)])
        self.fingerprint = hashlib.sha256(content.encode()).hexdigest()
        self.sizes = manifest.sizes
        self._kept: dict[int, NDArray[np.uint32]] = {}
        for shard, info in enumerate(manifest.shards):
            index = open_index(shard) if open_index is not None else ShardIndex(manifest.shard_path(shard))
            require_same(index.info, info, info.name)
            self._keep(shard, np.logical_and.reduce([np.ones(len(index), bool), *(p.keeps(index) for p in chosen)]))
        if not self.sizes.sum():
            mend = "loosen them; python -m mmtrain data inspect shows each column's smallest, median and largest value"
            raise DataError("no sample passes the filters", where=", ".join(map(str, chosen)), mend=mend)

    def _keep(self, shard: int, passes: NDArray[np.bool_]) -> None:
        if not passes.all():
            self._kept[shard] = np.flatnonzero(passes).astype(np.uint32)
            self.sizes[shard] = len(self._kept[shard])

    def index(self, shard: int, position: int) -> int:
        """The number, among all samples of the shard, of the one at ``position`` among those that are kept."""
        assert 0 <= position < self.sizes[shard]
        return int(self._kept[shard][position]) if shard in self._kept else position
