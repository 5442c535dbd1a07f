"""A maker and a plan of plain numbers, for tests of how batches travel."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mmtrain.data.loader.batch import Arrays, Field, Rows, Status
from mmtrain.data.plan.share import Share

ROWS = 24


class Counting:
    """Step s of epoch e holds the rows 1000 e + 24 s and on, without an edge."""

    global_batch_size = ROWS
    seed = 0

    def __init__(self, steps: int = 10) -> None:
        self.steps = steps

    def __len__(self) -> int:
        return self.steps

    def share(self, epoch: int, step: int) -> Share:
        sample = 1000 * epoch + ROWS * step + np.arange(ROWS)
        return Share(np.zeros(ROWS, np.int64), np.full(ROWS, epoch), sample, np.ones(ROWS, np.float32))

    def position(self, epoch: int, step: int) -> dict[str, int]:
        return {"epoch": epoch, "samples": step * ROWS}

    def locate(self, epoch: int, samples: int) -> tuple[int, int]:
        return epoch, samples // ROWS

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"kind": "counting"}


class Numbers:
    """Rows that hold their sample's number in several forms; ``at`` does something to whoever prepares a sample."""

    fingerprint = "numbers"

    def __init__(
        self, at: Mapping[int, Callable[[], object]] | None = None, *, text: int = 1, delay: float = 0
    ) -> None:
        self.at = dict(at or {})
        self.text = text
        self.delay = delay

    def fields(self, share: Share) -> dict[str, Field]:
        plain = {"number": Field((), np.dtype(np.int64)), "image": Field((3, 8, 8), np.dtype(np.uint8))}
        return plain | {"weight": Field((), np.dtype(np.float32))}

    def fill(self, share: Share, arrays: Arrays, status: Status) -> Rows:
        arrays["weight"][:] = share.weight
        for row, number in enumerate(share.sample.tolist()):
            status[:] = (0, number)
            time.sleep(self.delay)
            if number in self.at:
                self.at[number]()
            arrays["number"][row] = number
            arrays["image"][row] = number % 251
        pids = [os.getpid()] * len(share)
        return Rows({"key": [f"{number}" * self.text for number in share.sample.tolist()], "pid": pids}, [])

    def where(self, source: int, sample: int) -> str:
        return f"shard {source}, key {sample}"


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail() -> None:
    raise ZeroDivisionError("a mistake in encode")


def expected(epoch: int, step: int) -> list[int]:
    return (1000 * epoch + ROWS * step + np.arange(ROWS)).tolist()
