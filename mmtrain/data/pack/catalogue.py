"""A list on disk of what is to be packed, in the order in which it was found."""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray


class Catalogue:
    """JSON records, one a line. In memory are each one's end and hash: 16 bytes a record.

    Args:
        path: The file to write; an older one is replaced.
        records: What to list.

    Attributes:
        sha256: Hash of all records.
    """

    def __init__(self, path: Path, records: Iterable[Any]) -> None:
        ends, hashes = array("Q", [0]), array("Q")
        sha256 = hashlib.sha256()
        with path.open("wb") as file:
            for record in records:
                line = json.dumps(record).encode() + b"\n"
                file.write(line)
                sha256.update(line)
                hashes.append(xxhash.xxh3_64_intdigest(line))
                ends.append(ends[-1] + len(line))
        self.path = path
        self.sha256 = sha256.hexdigest()
        self._ends = ends
        self._hashes = hashes

    def __len__(self) -> int:
        return len(self._hashes)

    def read(self, numbers: Iterable[int]) -> list[Any]:
        """The records of these numbers, in their order."""
        with self.path.open("rb") as file:
            return [json.loads(self._line(file.fileno(), number)) for number in numbers]

    def repeats(self) -> NDArray[np.int64]:
        """Numbers of the records that equal an earlier one, ascending."""
        hashes = np.array(self._hashes, np.uint64)
        order = np.argsort(hashes, kind="stable")
        later = np.flatnonzero(hashes[order][1:] == hashes[order][:-1]) + 1
        with self.path.open("rb") as file:
            lines = ((self._line(file.fileno(), order[at - 1]), self._line(file.fileno(), order[at])) for at in later)
            equal = np.array([first == second for first, second in lines], bool)
        return np.sort(order[later[equal]])

    def _line(self, descriptor: int, number: int) -> bytes:
        return os.pread(descriptor, self._ends[number + 1] - self._ends[number], self._ends[number])
