"""Batches of a plan, in order, prepared in this process: at once, or ahead of time by threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Protocol

import numpy as np
import torch

from mmtrain.data.loader.batch import Batch, Field, Maker, Rows, collect, piece_edges
from mmtrain.data.plan.share import Plan, Share

MIN_PIECE = 64
"""Rows that are worth a message to a worker: at 150 us a row, pieces of 32 cost a tenth more processor time in all."""

Place = tuple[int, int]
"""An epoch and a step."""


class Finished(NamedTuple):
    """A batch, and the messages of the samples in it that could not be used."""

    batch: Batch
    faults: list[str]


class Stream(Protocol):
    """Yields the batches of the places it was opened with."""

    def __next__(self) -> Finished: ...

    def close(self) -> None:
        """Ends workers and frees memory; batches that were handed out stay valid."""


class InlineStream:
    """Prepares each batch when it is asked for."""

    def __init__(self, maker: Maker, plan: Plan, places: Iterator[Place], *, pin_memory: bool = False) -> None:
        self._maker = maker
        self._plan = plan
        self._places = places
        self._pin_memory = pin_memory
        self._fields: dict[str, Field] | None = None

    def __next__(self) -> Finished:
        share = self._plan.share(*next(self._places))
        if self._fields is None:
            self._fields = self._maker.fields(share)
        tensors = _allocate(self._fields, len(share), self._pin_memory)
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        return finish(tensors, [(0, self._maker.fill(share, arrays, np.zeros(2, np.int64)))])

    def close(self) -> None:
        """There is nothing to end."""


class ThreadStream:
    """Threads prepare the rows of the next batches; decoding and resizing release the interpreter's lock.

    Args:
        maker: Prepares rows.
        plan: What each batch holds.
        places: The batches, in order.
        num_workers: Threads.
        prefetch: Batches prepared ahead.
        pin_memory: Whether batches lie in page-locked memory.
    """

    def __init__(
        self,
        maker: Maker,
        plan: Plan,
        places: Iterator[Place],
        *,
        num_workers: int,
        prefetch: int,
        pin_memory: bool = False,
    ) -> None:
        self._maker = maker
        self._plan = plan
        self._places = places
        self._num_workers = num_workers
        self._prefetch = prefetch
        self._pin_memory = pin_memory
        self._fields: dict[str, Field] | None = None
        self._ahead: deque[tuple[dict[str, torch.Tensor], list[tuple[int, Future[Rows]]]]] = deque()
        self._pool = ThreadPoolExecutor(num_workers, "mmtrain-data")

    def __next__(self) -> Finished:
        while len(self._ahead) <= self._prefetch and (place := next(self._places, None)) is not None:
            self._ahead.append(self._submit(self._plan.share(*place)))
        if not self._ahead:
            raise StopIteration
        tensors, pieces = self._ahead.popleft()
        return finish(tensors, [(start, rows.result()) for start, rows in pieces])

    def close(self) -> None:
        """Lets what is being prepared be finished, and drops it."""
        self._ahead.clear()
        self._pool.shutdown(cancel_futures=True)

    def _submit(self, share: Share) -> tuple[dict[str, torch.Tensor], list[tuple[int, Future[Rows]]]]:
        if self._fields is None:
            self._fields = self._maker.fields(share)
        tensors = _allocate(self._fields, len(share), self._pin_memory)
        pieces = []
        for start, stop in piece_edges(len(share), pieces_of(len(share), self._num_workers)):
            arrays = {name: tensor[start:stop].numpy() for name, tensor in tensors.items()}
            rows = self._pool.submit(self._maker.fill, share.rows(start, stop), arrays, np.zeros(2, np.int64))
            pieces.append((start, rows))
        return tensors, pieces


def finish(tensors: dict[str, torch.Tensor], parts: list[tuple[int, Rows]]) -> Finished:
    """Puts the parts of a batch together; each comes with the number of its first row."""
    return Finished(collect(tensors, parts), [fault for _, rows in parts for fault in rows.faults])


def pieces_of(rows: int, num_workers: int) -> int:
    """Into how many pieces a batch's rows are shared out among workers."""
    return max(1, min(num_workers, rows // MIN_PIECE))


def _allocate(fields: dict[str, Field], rows: int, pin_memory: bool) -> dict[str, torch.Tensor]:
    return {
        name: torch.empty((rows, *field.shape), dtype=_torch_type(field), pin_memory=pin_memory)
        for name, field in fields.items()
    }


def _torch_type(field: Field) -> torch.dtype:
    return torch.from_numpy(np.empty(0, field.dtype)).dtype
