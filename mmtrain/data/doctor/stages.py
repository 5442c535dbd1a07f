"""How fast one core takes samples through each stage: reading, and what the data node names.

Samples are taken in the order of the plan. What is compared is measured in turns, on the same samples, so that whatever
else the machine does strikes both alike.
"""

from __future__ import annotations

import itertools
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import cv2
import numpy as np

from mmtrain.data.fetch.reader import ShardReader
from mmtrain.data.loader.samples import Samples
from mmtrain.data.plan.draw import SampleSeed
from mmtrain.data.plan.share import Plan
from mmtrain.data.shards.index import RawSample
from mmtrain.errors import DataError

_TURN = 16  # samples that one function gets before the other's turn
_POOL = 256  # samples that stages are measured on
_POOL_BYTES = 64 * 2**20
_OPENINGS = 16

_T = TypeVar("_T")

Stage = Callable[[RawSample, SampleSeed], object]


@runtime_checkable
class Staged(Protocol):
    """A data node that shows how it prepares a training sample."""

    def stages(self) -> Mapping[str, Stage]:
        """Functions by the name of a stage, each of which does all that comes before its stage, too."""


@dataclass(frozen=True)
class Speed:
    """What was done, and in how long.

    Attributes:
        samples: Samples that were done.
        seconds: How long it took.
        cpu_seconds: Processor time that it took, of all processes and threads.
        bytes: Bytes that were read or handed over; 0 where that says nothing.
    """

    samples: int
    seconds: float
    cpu_seconds: float
    bytes: int = 0

    @property
    def samples_per_second(self) -> float:
        """Samples a second."""
        return self.samples / self.seconds

    @property
    def us_per_sample(self) -> float:
        """Microseconds a sample."""
        return self.seconds / self.samples * 1e6

    @property
    def cpu_us_per_sample(self) -> float:
        """Microseconds of one core that a sample takes, however many programs share it."""
        return self.cpu_seconds / self.samples * 1e6

    @property
    def mb_per_second(self) -> float:
        """10^6 bytes a second."""
        return self.bytes / self.seconds / 1e6

    @property
    def cores(self) -> float:
        """Cores in use, on average."""
        return self.cpu_seconds / self.seconds


@dataclass(frozen=True)
class Reading:
    """How fast samples are read, by one process.

    Attributes:
        first: As the doctor found them: from a disk, from the network, or from memory.
        from_disk: Share of the first pass's bytes that a disk delivered, as far as the system counts them.
        again: The same samples from memory.
        unverified: The same without comparing checksums.
        opening_us: Microseconds that opening a shard takes.
    """

    first: Speed
    from_disk: float
    again: Speed
    unverified: Speed
    opening_us: float


class Item(NamedTuple):
    """A sample in memory."""

    raw: RawSample
    seed: SampleSeed


def race(items: Sequence[_T], runners: Mapping[str, Callable[[_T], object]], seconds: float) -> dict[str, Speed]:
    """Times functions against each other, each on all of ``items`` at least once."""
    samples = 0
    wall, cpu = dict.fromkeys(runners, 0.0), dict.fromkeys(runners, 0.0)
    deadline = time.perf_counter() + seconds
    with _single_threaded():
        for turn in itertools.cycle(range(0, len(items), _TURN)):
            part = items[turn : turn + _TURN]
            for name, function in runners.items():
                start, cpu_start = time.perf_counter(), time.process_time()
                for item in part:
                    function(item)
                wall[name] += time.perf_counter() - start
                cpu[name] += time.process_time() - cpu_start
            samples += len(part)
            if samples >= len(items) and time.perf_counter() > deadline:
                break
    return {name: Speed(samples, wall[name], cpu[name]) for name in runners}


def planned(plan: Plan, seed: int) -> Iterator[SampleSeed]:
    """The samples of the plan's first epoch, in their order; not those of packed rows."""
    for step in range(len(plan)):
        share = plan.share(0, step)
        columns = (share.epoch.tolist(), share.sample.tolist(), share.source.tolist())
        for epoch, sample, source in zip(*columns, strict=True):
            yield SampleSeed(seed, epoch, sample, source)


def measure_reading(samples: Samples, plan: Plan, seconds: float) -> Reading:
    """Reads samples as they come, then again and again.

    Raises:
        DataError: A sample cannot be read, and faults are not skipped; or none can.
    """
    seen: list[SampleSeed] = []
    size, blocks = 0, _disk_blocks()
    start, cpu_start = time.perf_counter(), time.process_time()
    for seed in planned(plan, samples.seed):
        raw = _read(samples, seed)
        if raw is not None:
            seen.append(seed)
            size += bytes_of(raw)
        if time.perf_counter() - start > seconds:
            break
    _require_some(seen)
    first = Speed(len(seen), time.perf_counter() - start, time.process_time() - cpu_start, size)
    from_disk = min(1.0, (_disk_blocks() - blocks) * 512 / size)
    readers = [source.reader for source in samples.sources]
    unverified = [_without_verification(reader) for reader in readers]
    runners: dict[str, Callable[[SampleSeed], object]] = {
        "verified": lambda seed: readers[seed.source].read(seed.sample),
        "unverified": lambda seed: unverified[seed.source].read(seed.sample),
    }
    again = {
        name: replace(speed, bytes=size * speed.samples // len(seen))
        for name, speed in race(seen, runners, 2 * seconds).items()
    }
    return Reading(first, from_disk, again["verified"], again["unverified"], _opening_us(readers[seen[0].source], seen))


def pool(samples: Samples, plan: Plan, seconds: float) -> list[Item]:
    """Samples in memory that stages are measured on, as many as can be had in ``seconds``; bad ones are left out.

    Raises:
        DataError: All are bad.
    """
    found: list[Item] = []
    size, start = 0, time.perf_counter()
    for seed in itertools.islice(planned(plan, samples.seed), 2 * _POOL):
        try:
            raw = samples.sources[seed.source].reader.read(seed.sample)
            samples.sources[seed.source].encode(raw, seed)
        except (DataError, ValueError):
            continue
        found.append(Item(raw, seed))
        size += bytes_of(raw)
        if len(found) == _POOL or size > _POOL_BYTES or time.perf_counter() - start > seconds:
            break
    _require_some(found)
    return found


def measure_stages(items: Sequence[Item], stages: Mapping[str, Stage], seconds: float) -> dict[str, Speed]:
    """The time that each stage adds to those before it."""
    runners = {name: _on_item(stage) for name, stage in stages.items()}
    total = race(items, runners, seconds * len(stages))
    added, before = {}, Speed(1, 0.0, 0.0)
    for name, speed in total.items():
        # A stage of no work may come out below zero.
        wall, cpu = max(1e-9, speed.seconds - before.seconds), max(0.0, speed.cpu_seconds - before.cpu_seconds)
        added[name] = Speed(speed.samples, wall, cpu)
        before = speed
    return added


def measure_filling(samples: Samples, plan: Plan, seconds: float) -> Speed:
    """Fills batches, over and over the same: all that a worker does of one, but for the plan."""
    share = plan.share(0, 0)
    fields = samples.fields(share)
    arrays = {name: np.empty((len(share), *field.shape), field.dtype) for name, field in fields.items()}
    speed = race([share], {"fill": lambda rows: samples.fill(rows, arrays, np.zeros(2, np.int64))}, seconds)["fill"]
    return replace(speed, samples=speed.samples * len(share))


def bytes_of(raw: RawSample) -> int:
    """Bytes of a sample's members."""
    return sum(len(value) for name, value in raw.items() if name != "__key__")


def _read(samples: Samples, seed: SampleSeed) -> RawSample | None:
    try:
        return samples.sources[seed.source].reader.read(seed.sample)
    except DataError:
        if samples.on_fault == "raise":
            raise
        return None


def _require_some(found: Sequence[object]) -> None:
    if not found:
        mend = "look into it: python -m mmtrain data inspect FOLDER --verify"
        raise DataError("none of the first samples can be used", mend=mend)


def _without_verification(reader: ShardReader) -> ShardReader:
    other = copy(reader)
    other.verify = False
    return other


def _opening_us(reader: ShardReader, seen: Sequence[SampleSeed]) -> float:
    """What a shard's first sample takes in a new reader beyond what it takes the second time."""
    sizes = reader.manifest.sizes
    of_source = [seed.sample for seed in seen if seed.source == seen[0].source]
    shards = np.unique(reader.shards_of(np.array(of_source)))[:_OPENINGS]
    samples = (np.cumsum(sizes) - sizes)[shards].tolist()
    fresh = ShardReader(reader.manifest, store=reader.store, verify=False)
    taken = []
    for _ in range(2):
        start = time.perf_counter()
        for sample in samples:
            fresh.read(sample)
        taken.append(time.perf_counter() - start)
    return max(0.0, taken[0] - taken[1]) / len(samples) * 1e6


def _on_item(stage: Stage) -> Callable[[Item], object]:
    return lambda item: stage(item.raw, item.seed)


@contextmanager
def _single_threaded() -> Iterator[None]:
    """As in a worker process: OpenCV works in the thread that calls it."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(0)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


def _disk_blocks() -> int:
    """Blocks of 512 bytes that disks delivered to this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_inblock
