"""How fast batches come: as the config has them prepared, and from workers that prepare nothing."""

from __future__ import annotations

import itertools
import os
import resource
import time

import numpy as np

from mmtrain.data.doctor.stages import Speed
from mmtrain.data.loader.batch import WEIGHT, Arrays, Field, Maker, Rows, Status
from mmtrain.data.loader.loader import Loader, WorkerKind
from mmtrain.data.loader.stream import MIN_PIECE
from mmtrain.data.plan.share import Plan, Share

_BATCHES = 8  # that should at least come while they are counted


def measure_pipeline(
    maker: Maker, plan: Plan, seconds: float, *, num_workers: int, workers: WorkerKind = "process", prefetch: int = 4
) -> Speed:
    """Takes batches as fast as they come, from when the first one is there.

    Raises:
        DataError: A sample cannot be used, and faults are not skipped.
    """
    loader = Loader(maker, plan, num_workers=num_workers, workers=workers, prefetch=prefetch)
    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    samples = size = 0
    opened, cpu_before = time.perf_counter(), _cpu_of_all()
    try:
        next(batches)
        start = time.perf_counter()
        while (elapsed := time.perf_counter() - start) < seconds or not samples:
            batch = next(batches)
            samples += len(batch[WEIGHT])
            size += sum(value.nbytes for value in batch.values() if not isinstance(value, list))
            del batch  # its slot is free again
    finally:
        loader.close()
    # What a worker process took is known when it has ended.
    cores = (_cpu_of_all() - cpu_before) / (time.perf_counter() - opened)
    return Speed(samples, elapsed, cores * elapsed, size)


def measure_transport(maker: Maker, plan: Plan, seconds: float, *, num_workers: int, prefetch: int = 4) -> Speed:
    """Takes batches of the same fields from worker processes that prepare nothing."""
    return measure_pipeline(
        _Idle(maker, plan.share(0, 0)), plan, seconds, num_workers=max(1, num_workers), prefetch=prefetch
    )


def rows_to_measure(rows: int, us_per_sample: float, num_workers: int, seconds: float) -> int:
    """Rows of a batch of which some are prepared within ``seconds``, up to a rank's own."""
    workers = max(1, num_workers)
    return min(rows, max(MIN_PIECE * workers, int(seconds * 1e6 / us_per_sample * workers / _BATCHES)))


class FirstRows:
    """A plan whose batches are the first rows of another's. A `mmtrain.data.plan.share.Plan`."""

    def __init__(self, plan: Plan, rows: int) -> None:
        self.global_batch_size = plan.global_batch_size
        self.seed = plan.seed
        self.identity = plan.identity
        self._plan = plan
        self._rows = rows

    def __len__(self) -> int:
        return len(self._plan)

    def share(self, epoch: int, step: int) -> Share:
        """The first rows of the rank's part."""
        return self._plan.share(epoch, step).rows(0, self._rows)

    def position(self, epoch: int, step: int) -> dict[str, int]:
        """The whole plan's."""
        return self._plan.position(epoch, step)

    def locate(self, epoch: int, samples: int) -> tuple[int, int]:
        """The whole plan's."""
        return self._plan.locate(epoch, samples)


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Idle:
    """Hands over the same rows each time."""

    def __init__(self, maker: Maker, share: Share) -> None:
        self.fingerprint = maker.fingerprint
        self._fields = maker.fields(share)
        arrays = {name: np.empty((len(share), *field.shape), field.dtype) for name, field in self._fields.items()}
        self._lists = maker.fill(share, arrays, np.zeros(2, np.int64)).lists

    def fields(self, share: Share) -> dict[str, Field]:
        return self._fields

    def fill(self, share: Share, arrays: Arrays, status: Status) -> Rows:
        return Rows({name: values[: len(share)] for name, values in self._lists.items()}, [])

    def where(self, source: int, sample: int) -> str:
        return f"sample {sample}"


def _cpu_of_all() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
