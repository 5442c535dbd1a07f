"""A file read once, from front to back: its bytes are in memory for whoever asks along the way, as is its sha256."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import BinaryIO

import xxhash

from mmtrain.errors import DataError

_BLOCK = 2 * 2**20  # bytes; a multiple of 512, so that no tar header lies across an edge


class Blocks:
    """The bytes of a file that is read in order.

    Requests may lie anywhere, but are cheap (no system call) only where they advance from block to block; what lies
    across the edge of a block, or behind, is read again, from the page cache. Memory: one block, and what is asked for.

    Args:
        path: The file's name, for messages.
        file: The file, opened for reading.

    Attributes:
        size: Length of the file in bytes.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self._descriptor = file.fileno()
        self.size = os.fstat(self._descriptor).st_size
        self._sha256 = hashlib.sha256()
        self._data = b""
        self._start = 0
        self._stop = 0

    def read(self, start: int, stop: int) -> bytes:
        """Bytes ``start`` to ``stop``; fewer where the file ends before.

        Raises:
            DataError: The file cannot be read, or shrank.
        """
        stop = min(stop, self.size)
        while self._stop <= start < stop:
            self._advance()
        if start >= self._start and stop <= self._stop:
            return self._data[start - self._start : stop - self._start]
        return self._pread(start, max(0, stop - start))

    def xxh3(self, start: int, stop: int) -> int:
        """xxh3_64 of bytes ``start`` to ``stop``, whatever their number, in the memory of a block."""
        while self._stop <= start < stop:
            self._advance()
        if start >= self._start and stop <= self._stop:
            return xxhash.xxh3_64_intdigest(memoryview(self._data)[start - self._start : stop - self._start])
        state = xxhash.xxh3_64()
        for position in range(start, stop, _BLOCK):
            state.update(self._pread(position, min(_BLOCK, stop - position)))
        return state.intdigest()

    def sha256(self) -> str:
        """sha256 of the whole file, whose rest is read for it."""
        while self._stop < self.size:
            self._advance()
        return self._sha256.hexdigest()

    def _advance(self) -> None:
        self._data = self._pread(self._stop, min(_BLOCK, self.size - self._stop))
        self._start, self._stop = self._stop, self._stop + len(self._data)
        self._sha256.update(self._data)

    def _pread(self, start: int, length: int) -> bytes:
        try:
            data = os.pread(self._descriptor, length, start)
        except OSError as error:
            raise self._error(f"the shard cannot be read: {error.strerror}", start) from None
        if len(data) == length:
            return data
        if not data:
            raise self._error(f"the shard shrank while it was read: it had {self.size} bytes", start)
        return data + self._pread(start + len(data), length - len(data))  # network file systems may give less

    def _error(self, reason: str, position: int) -> DataError:
        return DataError(reason, where=f"{self.path}, byte {position}", mend="copy or download the shard again")
