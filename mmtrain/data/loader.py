"""Loaders: the main process plans, stateless workers fetch and prepare, and the position is one pair of numbers.

`Loader` is for training: it owns the epoch, and its state says which batches were handed out, whatever workers prepared
ahead. `EvalLoader` makes one pass each time it is iterated.
"""

from __future__ import annotations

import atexit
import itertools
import signal
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from mmtrain.data.draw import SampleSeed
from mmtrain.data.fetch import ShardReader
from mmtrain.data.index import RawSample
from mmtrain.data.plan import Plan, Share, nearest_divisor
from mmtrain.errors import DataError, RunError

Batch = dict[str, Any]
Encode = Callable[[RawSample, SampleSeed], Mapping[str, Any]]
"""Turns a raw sample into named arrays, numbers and strings: a pure function, which raises `ValueError` for a bad
sample."""

_STATE_VERSION = 1


class _Planned:
    """Batches as a plan says.

    Args:
        reader: Where samples come from.
        encode: Prepares a sample.
        plan: Which samples this rank takes in each step.
        num_workers: Processes that prepare batches; 0 prepares them in this one.
        prefetch: Batches that each worker prepares ahead.
        pin_memory: Whether batches lie in page-locked memory, for asynchronous copies to a GPU.
    """

    def __init__(
        self,
        reader: ShardReader,
        encode: Encode,
        plan: Plan,
        *,
        num_workers: int = 0,
        prefetch: int = 2,
        pin_memory: bool = False,
    ) -> None:
        self.reader = reader
        self.plan = plan
        self._batches = _Batches(reader, encode, plan.seed)
        self._num_workers = num_workers
        self._prefetch = prefetch
        self._pin_memory = pin_memory

    def __len__(self) -> int:
        """Steps of a full epoch, also after a resume; the same on every rank."""
        return len(self.plan)

    def _open(self, shares: Iterable[Share]) -> _Stream:
        return _Stream(self._batches, shares, self._num_workers, self._prefetch, self._pin_memory)


class EvalLoader(_Planned):
    """A rank's evaluation batches: every iteration is one pass, from the first sample, with workers of its own."""

    def __iter__(self) -> Iterator[Batch]:
        stream = self._open(self.plan.share(0, step) for step in range(len(self)))
        try:
            yield from stream
        finally:
            stream.close()


class Loader(_Planned):
    """A rank's training batches, for as many epochs as are asked for.

    One iteration is one epoch. After a finished epoch the next iteration is the next epoch; after one that was broken
    off it goes on where it stopped. Workers start once and prepare batches across the epochs' edges.
    """

    _epoch = 0
    _step = 0
    _stream: _Stream | None = None

    def __iter__(self) -> Iterator[Batch]:
        if self._step == len(self):
            self._epoch, self._step = self._epoch + 1, 0
        while self._step < len(self):
            if self._stream is None:
                self._stream = self._open(_endless(self.plan, self._epoch, self._step))
            try:
                batch = next(self._stream)
            except BaseException:  # the stream is ahead of the position now: open a new one at the next attempt
                self.close()
                raise
            self._step += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """The position after the batches handed out so far; the same on every rank, for any number of workers."""
        finished = self._step == len(self)
        return {
            "version": _STATE_VERSION,
            "epoch": self._epoch + finished,
            "samples": 0 if finished else self._step * self.plan.global_batch_size,
            **self._identity(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from ``state``, on any number of ranks and workers.

        Raises:
            RunError: The order of samples changed since, or the position is not at the edge of a global batch.
        """
        if state["version"] != _STATE_VERSION:
            reason = f"the data position has version {state['version']}, this program reads {_STATE_VERSION}"
            raise RunError(reason, where="the checkpoint's data state", mend="resume with the version that wrote it")
        changed = [
            f"{name} was {state[name]} and is {value}"
            for name, value in self._identity().items()
            if state[name] != value
        ]
        if changed:
            reason = "the order of samples is not the one the checkpoint was written under: " + "; ".join(changed)
            mend = "restore these settings and the shards, or start a fresh run"
            raise RunError(reason, where="the checkpoint's data state", mend=mend)
        step, rest = divmod(state["samples"], self.plan.global_batch_size)
        if rest or step >= len(self):
            samples, size = state["samples"], self.plan.global_batch_size
            reason = f"{samples} samples into an epoch is not at the edge of a global batch of {size}"
            mend = f"set data.global_batch_size={nearest_divisor(samples, size)}"
            raise RunError(reason, where="data.global_batch_size", mend=mend)
        self.close()
        self._epoch, self._step = state["epoch"], step

    def close(self) -> None:
        """Stops the workers; the next iteration starts them again."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _identity(self) -> dict[str, Any]:
        plan, fingerprint = self.plan, self.reader.manifest.fingerprint
        return {"seed": plan.seed, "lanes": plan.lanes, "window": plan.window, "fingerprint": fingerprint}


def _endless(plan: Plan, epoch: int, step: int) -> Iterator[Share]:
    for number in itertools.count(epoch):
        for index in range(step if number == epoch else 0, len(plan)):
            yield plan.share(number, index)


class _Batches(Dataset["Batch | DataError"]):
    """Makes a batch of a share. Stateless, and so the same in any process."""

    def __init__(self, reader: ShardReader, encode: Encode, seed: int) -> None:
        self.reader = reader
        self.encode = encode
        self.seed = seed

    def __getitem__(self, share: Share) -> Batch | DataError:
        # An error goes back as a value: raised in a worker it would come out wrapped in that process's traceback.
        try:
            items = [self._item(SampleSeed(self.seed, share.epoch, sample)) for sample in share.samples.tolist()]
        except DataError as error:
            return error
        return {**_collate(items), "weight": torch.from_numpy(share.weight)}

    def _item(self, seed: SampleSeed) -> Mapping[str, Any]:
        raw = self.reader.read(seed.sample)
        try:
            return self.encode(raw, seed)
        except ValueError as error:
            where = self.reader.where(seed.sample)
            mend = "mend or remove the sample, and index the data set again"
            raise DataError(f"a sample cannot be used: {error}", where=where, mend=mend) from error


def _collate(items: list[Mapping[str, Any]]) -> Batch:
    return {name: _collate_field([item[name] for item in items]) for name in items[0]}


def _collate_field(values: list[Any]) -> Any:
    if isinstance(values[0], np.ndarray):
        return torch.from_numpy(np.stack(values))
    if isinstance(values[0], int | float):
        return torch.tensor(values)
    return values


class _Stream:
    """Batches of the given shares, in order, made by worker processes or, without any, here."""

    def __init__(
        self, batches: _Batches, shares: Iterable[Share], num_workers: int, prefetch: int, pin_memory: bool
    ) -> None:
        self.close: Callable[[], object] = _nothing
        if num_workers == 0:
            self._iterator: Iterator[Batch | DataError] = map(batches.__getitem__, shares)
            return
        self._iterator = iter(
            DataLoader(
                batches,
                batch_size=None,  # a share is a whole batch
                sampler=shares,
                num_workers=num_workers,
                prefetch_factor=prefetch,
                collate_fn=_unchanged,
                worker_init_fn=_start_worker,
                pin_memory=pin_memory,
                generator=torch.Generator(),  # else each new stream draws from the program's generator
            )
        )
        # Workers ignore SIGTERM, so the interpreter must not come to its exit, where it sends that and waits.
        atexit.register(self._iterator._shutdown_workers)  # type: ignore[attr-defined]
        self.close = weakref.finalize(self, _shut_down, self._iterator)

    def __iter__(self) -> _Stream:
        return self

    def __next__(self) -> Batch:
        batch = next(self._iterator)
        if isinstance(batch, DataError):
            raise batch
        return batch


def _shut_down(iterator: Any) -> None:
    atexit.unregister(iterator._shutdown_workers)
    iterator._shutdown_workers()


def _nothing() -> None:
    pass


def _unchanged(batch: Any) -> Any:
    return batch


def _start_worker(_: int) -> None:
    """A scheduler signals every process of a job; workers live on until the trainer has saved and shuts them down."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    cv2.setNumThreads(0)
