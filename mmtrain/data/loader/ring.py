"""A ring of batch-sized slots in memory that worker processes share.

Moving a batch costs nothing: a worker writes its rows into a slot, and the tensors that are handed out lie in that same
slot. It is free for another batch once the last of them is gone. The memory is anonymous, so that no crash can leave a
segment behind, and /dev/shm is not used.
"""

from __future__ import annotations

import mmap
import weakref
from collections import deque
from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from mmtrain.data.loader.batch import Field

_ALIGNMENT = 4096

Fence = Callable[[], Callable[[], bool]]
"""Marks the work a device was given so far; what it returns says whether that is done."""


class Ring:
    """Slots for batches of fixed shape.

    Args:
        fields: The arrays of a batch.
        rows: Rows of a batch.
        slots: Batches that have room at once.
    """

    def __init__(self, fields: Mapping[str, Field], rows: int, slots: int) -> None:
        self.fields = dict(fields)
        self.rows = rows
        self._offsets: dict[str, int] = {}
        self._slot_size = 0
        for name, field in self.fields.items():
            self._offsets[name] = self._slot_size
            size = rows * int(np.prod(field.shape, dtype=np.int64)) * field.dtype.itemsize
            self._slot_size += -(-size // _ALIGNMENT) * _ALIGNMENT
        self._memory = mmap.mmap(-1, self._slot_size * slots)  # shared with the processes that are forked later
        self._free = deque(range(slots))
        self._passing: deque[tuple[int, Callable[[], bool]]] = deque()
        self._fence: Fence | None = None
        self._lent = 0
        self._closed = False

    @property
    def lent(self) -> int:
        """Slots whose tensors are in use."""
        return self._lent

    def take(self) -> int | None:
        """A free slot to fill, or None."""
        while self._passing and self._passing[0][1]():
            self._free.append(self._passing.popleft()[0])
        return self._free.popleft() if self._free else None

    def give(self, slot: int) -> None:
        """Frees a slot that was taken and not lent."""
        self._free.append(slot)

    def arrays(self, slot: int) -> dict[str, NDArray[np.generic]]:
        """The slot's arrays, each of `rows` rows."""
        out = {}
        for name, field in self.fields.items():
            count = self.rows * int(np.prod(field.shape, dtype=np.int64))
            offset = slot * self._slot_size + self._offsets[name]
            out[name] = np.frombuffer(self._memory, field.dtype, count, offset).reshape(self.rows, *field.shape)
        return out

    def lend(self, slot: int) -> dict[str, torch.Tensor]:
        """Tensors that lie in the slot, which is free again when all memory they stand for is out of use."""
        arrays = self.arrays(slot)
        in_use = set(arrays)
        self._lent += 1

        def drop(name: str) -> None:
            in_use.discard(name)
            if not in_use:
                self._returned(slot)

        for name, array in arrays.items():
            weakref.finalize(array, drop, name).atexit = False  # a tensor, and each view of it, holds its array
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def pin(self) -> None:
        """Page-locks the memory, so that copies to the current CUDA device run beside the program.

        A slot is then not overwritten before the copies that were queued when it came back are done.
        """
        address = np.frombuffer(self._memory, np.uint8).ctypes.data
        torch.cuda.check_error(int(torch.cuda.cudart().cudaHostRegister(address, len(self._memory), 0)))
        self._fence = _cuda_fence

    def close(self) -> None:
        """Gives up the memory; what is lent stays valid."""
        self._closed = True
        self._unpin()

    def _returned(self, slot: int) -> None:
        self._lent -= 1
        if self._fence is None or self._closed:
            self._free.append(slot)
            self._unpin()
        else:
            self._passing.append((slot, self._fence()))

    def _unpin(self) -> None:
        if self._closed and self._fence is not None and self._lent == 0:
            torch.cuda.synchronize()
            torch.cuda.cudart().cudaHostUnregister(np.frombuffer(self._memory, np.uint8).ctypes.data)
            self._fence = None


def _cuda_fence() -> Callable[[], bool]:
    event = torch.cuda.Event()
    event.record()
    return event.query
