"""Long documents as several samples, so that a document is met in proportion to its length.

BERT's published data walk through a document and cut it into sequences. Here a document of n sequences is n samples of
an epoch, of which sample k draws its start from the k-th part of the document. The plan needs only their number, and
no sample depends on another.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mmtrain.data.shards.index import ShardIndex
from mmtrain.data.shards.manifest import Manifest, require_same


class Window(NamedTuple):
    """A sample's part of its document: the number of the document in the data set, and part ``part`` of ``parts``."""

    document: int
    part: int
    parts: int

    def start(self, num_tokens: int, length: int, draw: float) -> int:
        """The first of ``length`` tokens that lie in a document of ``num_tokens``; 0 where it has no more than these.

        Args:
            num_tokens: Tokens of the document.
            length: Tokens of the window.
            draw: A number in [0, 1), uniform.
        """
        return int((self.part + draw) / self.parts * (max(0, num_tokens - length) + 1))


class Windows:
    """Numbers the windows of a data set's documents. A `mmtrain.data.fetch.reader.Select`.

    A document of N tokens has ``max(1, round(N / length))``.

    Args:
        manifest: The data set, with the column ``num_tokens`` in its indexes.
        length: Tokens of a window.
        open_index: Gives the index of the shard of a number; by default what lies beside the shard.

    Attributes:
        sizes: Windows of each shard, int64, shape ``(shards,)``.
        fingerprint: sha256 over the data set's fingerprint and the length.

    Raises:
        DataError: An index is missing or damaged, or has no such column.
    """

    def __init__(self, manifest: Manifest, length: int, open_index: Callable[[int], ShardIndex] | None = None) -> None:
        content = json.dumps([manifest.fingerprint, "windows", length])
        self.fingerprint = hashlib.sha256(content.encode()).hexdigest()
        self._ends = []
        for shard, info in enumerate(manifest.shards):
            index = open_index(shard) if open_index is not None else ShardIndex(manifest.shard_path(shard))
            require_same(index.info, info, info.name)
            parts = np.maximum(1, np.rint(index.column("num_tokens") / length)).astype(np.int64)
            self._ends.append(np.cumsum(parts))
        self.sizes = np.array([ends[-1] if len(ends) else 0 for ends in self._ends], np.int64)
        self._shard_ends: list[int] = np.cumsum(self.sizes).tolist()
        self._first_document = (np.cumsum(manifest.sizes) - manifest.sizes).tolist()

    def index(self, shard: int, position: int) -> int:
        """The document, by its number in the shard, of the window at ``position``."""
        return int(np.searchsorted(self._ends[shard], position, "right"))

    def window(self, sample: int) -> Window:
        """The window of a number in the data set."""
        shard = bisect_right(self._shard_ends, sample)
        position = sample - (self._shard_ends[shard - 1] if shard else 0)
        document, ends = self.index(shard, position), self._ends[shard]
        first = int(ends[document - 1]) if document else 0
        return Window(self._first_document[shard] + document, position - first, int(ends[document]) - first)
