"""Rows that are samples: read, encoded, and written into the batch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from mmtrain.data.fetch.reader import ShardReader
from mmtrain.data.loader.batch import WEIGHT, Arrays, Field, Rows, Status, field_of
from mmtrain.data.plan.draw import SampleSeed
from mmtrain.data.plan.share import Share
from mmtrain.data.shards.index import RawSample
from mmtrain.errors import DataError

Encode = Callable[[RawSample, SampleSeed], Mapping[str, Any]]
"""Turns a raw sample into named arrays, numbers and strings: a pure function, which raises `ValueError` for a bad
sample."""

OnFault = Literal["raise", "skip"]


class SampleSource(NamedTuple):
    """A data set and what prepares its samples."""

    reader: ShardReader
    encode: Encode


class Samples:
    """Makes batches whose rows are samples. A `mmtrain.data.loader.batch.Maker`.

    Args:
        sources: The data sets, in the order that numbers them in the plan.
        seed: Seed of all draws.
        on_fault: What becomes of a sample that cannot be read or encoded: ``raise`` stops with its shard, key and
            reason; ``skip`` puts another sample in its row, with weight 0, and counts it.
    """

    def __init__(self, sources: Sequence[SampleSource], *, seed: int, on_fault: OnFault = "raise") -> None:
        self.sources = list(sources)
        self.seed = seed
        self.on_fault = on_fault

    @property
    def fingerprint(self) -> str:
        """sha256 of the data sets; with one, its own."""
        return joint_fingerprint([source.reader.fingerprint for source in self.sources])

    def fields(self, share: Share) -> dict[str, Field]:
        """Prepares one sample to see its fields."""
        seed = next(self._seeds(share))
        item = self._item(seed) if self.on_fault == "raise" else self._usable(seed)
        fields = {name: field_of(value) for name, value in item.items()}
        weight = {WEIGHT: Field((), np.dtype(np.float32))}
        return {name: field for name, field in fields.items() if field is not None} | weight

    def fill(self, share: Share, arrays: Arrays, status: Status) -> Rows:
        """Prepares a sample for each row."""
        arrays[WEIGHT][:] = share.weight
        lists: dict[str, list[Any]] = {}
        faults: list[str] = []
        for row, seed in enumerate(self._seeds(share)):
            status[:] = (seed.source, seed.sample)
            try:
                item = self._item(seed)
            except DataError as error:
                if self.on_fault == "raise":
                    raise
                if share.weight[row] > 0:  # filler repeats a sample, which is counted where it stands
                    faults.append(str(error))
                arrays[WEIGHT][row] = 0
                item = self._usable(seed)
            for name, value in item.items():
                _put(name, value, row, arrays, lists)
        return Rows(lists, faults)

    def where(self, source: int, sample: int) -> str:
        """The shard and key of a sample."""
        return self.sources[source].reader.where(sample)

    def _seeds(self, share: Share) -> Iterator[SampleSeed]:
        columns = (share.epoch.tolist(), share.sample.tolist(), share.source.tolist())
        for epoch, sample, source in zip(*columns, strict=True):
            yield SampleSeed(self.seed, epoch, sample, source)

    def _item(self, seed: SampleSeed) -> Mapping[str, Any]:
        reader, encode = self.sources[seed.source]
        raw = reader.read(seed.sample)
        try:
            return encode(raw, seed)
        except ValueError as error:
            mend = "mend or remove the sample and index the data set again, or set data.on_fault=skip"
            where = reader.where(seed.sample)
            raise DataError(f"a sample cannot be used: {error}", where=where, mend=mend) from error
        except Exception as error:
            error.add_note(f"while preparing {reader.where(seed.sample)}")
            raise

    def _usable(self, seed: SampleSeed) -> Mapping[str, Any]:
        """A sample in place of one that cannot be used: the next one that can, in ever longer strides."""
        total = len(self.sources[seed.source].reader)
        for stride in (2**power for power in range(total.bit_length() + 1)):
            try:
                return self._item(seed._replace(sample=(seed.sample + stride - 1) % total))
            except DataError as error:
                last = error
        raise last


def joint_fingerprint(fingerprints: Sequence[str]) -> str:
    """One fingerprint for several data sets, in order; a lone one stays as it is."""
    return fingerprints[0] if len(fingerprints) == 1 else hashlib.sha256("\n".join(fingerprints).encode()).hexdigest()


def _put(name: str, value: Any, row: int, arrays: Arrays, lists: dict[str, list[Any]]) -> None:
    array = arrays.get(name)
    if name not in lists:
        if array is not None and (not isinstance(value, np.ndarray) or value.shape == array.shape[1:]):
            array[row] = value
            return
        # A list from here on. What the rows before hold leaves the array, which will be overwritten.
        lists[name] = [] if array is None else [before.copy() for before in array[:row]]
    lists[name].append(value)
