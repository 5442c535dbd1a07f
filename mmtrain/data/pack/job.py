"""From items to an indexed data set: shards are tasks, and those that are finished are kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

from mmtrain.data.pack.faults import Faults
from mmtrain.data.pack.folder import PackFolder, Report
from mmtrain.data.pack.workers import run_tasks
from mmtrain.data.pack.writer import write_shard
from mmtrain.data.progress import progress_bar
from mmtrain.data.shards.build import build_manifest
from mmtrain.data.shards.index import write_index
from mmtrain.data.shards.manifest import MANIFEST, Manifest
from mmtrain.data.shards.write import Sample
from mmtrain.errors import DataError


class Packer(Protocol):
    """Turns a shard's records into samples. Is sent to worker processes."""

    def samples(self, records: Sequence[Any], faults: Faults, totals: Counter[str]) -> Iterator[Sample]:
        """The samples in order; notes those that cannot be made, and adds up what is to be summed over all shards."""


@dataclass(frozen=True)
class _Task:
    number: int
    records: Sequence[Any]


@dataclass(frozen=True)
class _MakeShard:
    folder: PackFolder
    packer: Packer
    skip_bad: bool
    columns: Sequence[str]

    def __call__(self, task: _Task) -> Report:
        path = self.folder.shard(task.number)
        unfinished = self.folder.beside(path)
        faults, totals = Faults(self.skip_bad), Counter[str]()
        try:
            samples = write_shard(self.packer.samples(task.records, faults, totals), unfinished)
        except OSError as error:
            reason, mend = f"a shard cannot be written: {error}", "make room, and run again: finished shards are kept"
            raise DataError(reason, where=str(path), mend=mend) from None
        faults.refuse(str(path))
        report = Report(samples, dict(totals), faults.found)
        self.folder.publish(task.number, unfinished, report)
        if samples:
            write_index(path, self.columns)  # by the worker, while the shard is in memory
        return report


def pack_shards(
    folder: PackFolder,
    packer: Packer,
    records: Callable[[int], Sequence[Any]],
    num_shards: int,
    *,
    listing: Faults,
    num_workers: int,
    columns: Sequence[str] = (),
    describe: Callable[[Mapping[str, int]], None] = lambda totals: None,
) -> Manifest:
    """Writes the shards that are missing, indexes them all, and completes the folder.

    Args:
        folder: A claimed folder.
        packer: Makes the samples.
        records: The records of a shard, by its number.
        num_shards: How many there are.
        listing: The bad items that were left out when the records were listed.
        num_workers: Processes; one or none works in this process.
        columns: Columns of the index.
        describe: Is given the sums over all shards, and writes what else belongs to the data set.

    Raises:
        DataError: An item cannot be packed and ``listing.skip`` is off; none can be packed; or the disk is full.
    """
    missing = [number for number in range(num_shards) if folder.finished(number) is None]
    tasks = (_Task(number, records(number)) for number in missing)
    done = num_shards - len(missing)
    with (
        progress_bar("Packing shards") as progress,
        closing(run_tasks(_MakeShard(folder, packer, listing.skip, columns), tasks, num_workers)) as results,
    ):
        progress(done, num_shards)
        for _ in results:
            done += 1
            progress(done, num_shards)
    return _complete(folder, num_shards, listing, columns, describe)


def _complete(
    folder: PackFolder,
    num_shards: int,
    listing: Faults,
    columns: Sequence[str],
    describe: Callable[[Mapping[str, int]], None],
) -> Manifest:
    skipped, totals, paths = list(listing.found), Counter[str](), []
    for number in range(num_shards):
        report = folder.finished(number)
        assert report is not None, f"shard {number} was made"
        skipped += report.skipped
        totals.update(report.totals)
        if report.samples:
            paths.append(folder.shard(number))
    if not paths:
        first = f", the first because: {skipped[0].where}: {skipped[0].reason}" if skipped else ""
        raise DataError(f"nothing is left to pack: {len(skipped):,} items were left out{first}", where=str(folder.path))
    with progress_bar("Indexing shards") as progress:
        manifest = build_manifest(paths, folder.path / MANIFEST, columns=columns, progress=progress)
    describe(totals)
    listed = [f"{fault.where}: {fault.reason}" for fault in skipped]
    folder.complete({"samples": manifest.samples, "shards": len(paths), "skipped": len(skipped), "bad": listed})
    return manifest
