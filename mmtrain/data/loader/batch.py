"""What a batch is made of: rows of named arrays that are filled in place, and lists of what has no fixed shape."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from mmtrain.data.plan.share import Share

Batch = dict[str, Any]
Arrays = Mapping[str, NDArray[Any]]
Status = NDArray[np.int64]
"""Two numbers, the source and sample that are being prepared: what to name if the process dies over it."""

WEIGHT = "weight"


class Field(NamedTuple):
    """Shape and type of one row of an array."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class Rows(NamedTuple):
    """What filling some rows leaves beside the arrays.

    Attributes:
        lists: One value a row of each field that is no array, or whose rows differ in shape.
        faults: A message for each sample that could not be used; its row has weight 0.
    """

    lists: dict[str, list[Any]]
    faults: list[str]


class Maker(Protocol):
    """Prepares rows. It holds no state that changes a result, so that any process or thread may prepare any row."""

    @property
    def fingerprint(self) -> str:
        """sha256 of the data that is read."""

    def fields(self, share: Share) -> dict[str, Field]:
        """The arrays of a batch; rows of ``share`` serve as the example. Each batch has a ``weight``."""

    def fill(self, share: Share, arrays: Arrays, status: Status) -> Rows:
        """Writes the rows of ``share`` into ``arrays``, which have as many rows, and says in ``status`` where it is.

        Raises:
            DataError: A sample cannot be used, and faults are not skipped.
        """

    def where(self, source: int, sample: int) -> str:
        """The shard and key of a sample, for messages."""


def collect(tensors: Mapping[str, torch.Tensor], parts: Sequence[tuple[int, Rows]]) -> Batch:
    """A batch of filled tensors and of what their parts, each with its first row, left beside them.

    A field whose rows turned out to differ in shape becomes a list of tensors.
    """
    batch: Batch = dict(tensors)
    varying = dict.fromkeys(name for _, rows in parts for name in rows.lists)
    for name in varying:
        values: list[Any] = []
        for position, (first, rows) in enumerate(parts):
            last = parts[position + 1][0] if position + 1 < len(parts) else len(tensors[WEIGHT])
            values += rows.lists[name] if name in rows.lists else [row.clone() for row in tensors[name][first:last]]
        arrays = (torch.from_numpy(value) if isinstance(value, np.ndarray) else value for value in values)
        batch[name] = list(arrays)
    return batch


def field_of(value: Any) -> Field | None:
    """The field that holds such values: arrays, numbers and truth values; None for anything else."""
    if isinstance(value, np.ndarray):
        return Field(value.shape, value.dtype)
    if isinstance(value, bool):
        return Field((), np.dtype(np.bool_))
    if isinstance(value, int):
        return Field((), np.dtype(np.int64))
    if isinstance(value, float):
        return Field((), np.dtype(np.float32))
    return None


def piece_edges(rows: int, pieces: int) -> Iterable[tuple[int, int]]:
    """Cuts rows into pieces of equal size, to one row."""
    edges = [piece * rows // pieces for piece in range(pieces + 1)]
    return itertools.pairwise(edges)
