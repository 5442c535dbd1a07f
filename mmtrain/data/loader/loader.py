"""Loaders: which batch is next, and a state that says it exactly.

`Loader` is for training: it owns the epoch, and its state says which batches were handed out, whatever workers prepared
ahead. `EvalLoader` makes one pass each time it is iterated.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Protocol

from mmtrain.data.loader.batch import Batch, Maker
from mmtrain.data.loader.processes import ProcessStream
from mmtrain.data.loader.stream import InlineStream, Place, Stream, ThreadStream
from mmtrain.data.plan.share import Plan
from mmtrain.errors import RunError

_STATE_VERSION = 2

WorkerKind = Literal["process", "thread"]


class Lookahead(Protocol):
    """Told where a loader stands, it fetches what comes next."""

    def advance(self, epoch: int, step: int) -> None:
        """The batch at this place is the next one to be handed out."""

    def close(self) -> None:
        """Ends it."""


class _Planned:
    """Batches as a plan says.

    Args:
        maker: Prepares the rows of a batch.
        plan: Which rows this rank takes in each step.
        num_workers: Processes or threads that prepare batches; 0 prepares them in this one when they are asked for.
        workers: ``process``, or ``thread`` for what releases the interpreter's lock.
        prefetch: Batches prepared ahead, by all workers together.
        pin_memory: Whether batches lie in page-locked memory, for asynchronous copies to a GPU.
        lookahead: Fetches remote shards ahead of the workers.
    """

    def __init__(
        self,
        maker: Maker,
        plan: Plan,
        *,
        num_workers: int = 0,
        workers: WorkerKind = "process",
        prefetch: int = 4,
        pin_memory: bool = False,
        lookahead: Lookahead | None = None,
    ) -> None:
        self.maker = maker
        self.plan = plan
        self._faults: list[str] = []
        self._num_workers = num_workers
        self._workers = workers
        self._prefetch = prefetch
        self._pin_memory = pin_memory
        self._lookahead = lookahead

    def __len__(self) -> int:
        """Steps of a full epoch, also after a resume; the same on every rank."""
        return len(self.plan)

    def take_faults(self) -> list[str]:
        """A message for each sample that was left out of the batches handed out here since the last call."""
        faults, self._faults = self._faults, []
        return faults

    def _open(self, places: Iterator[Place]) -> Stream:
        if self._num_workers == 0:
            return InlineStream(self.maker, self.plan, places, pin_memory=self._pin_memory)
        kind = ThreadStream if self._workers == "thread" else ProcessStream
        return kind(
            self.maker,
            self.plan,
            places,
            num_workers=self._num_workers,
            prefetch=self._prefetch,
            pin_memory=self._pin_memory,
        )

    def _next(self, stream: Stream) -> Batch:
        batch, faults = next(stream)
        self._faults += faults
        return batch


class EvalLoader(_Planned):
    """A rank's evaluation batches: every iteration is one pass, from the first sample, with workers of its own."""

    def __iter__(self) -> Iterator[Batch]:
        stream = self._open((0, step) for step in range(len(self)))
        try:
            for _ in range(len(self)):
                yield self._next(stream)
        finally:
            stream.close()


class Loader(_Planned):
    """A rank's training batches, for as many epochs as are asked for.

    One iteration is one epoch. After a finished epoch the next iteration is the next epoch; after one that was broken
    off it goes on where it stopped. Workers start once and prepare batches across the epochs' edges.
    """

    _epoch = 0
    _step = 0
    _stream: Stream | None = None

    def __iter__(self) -> Iterator[Batch]:
        if self._step == len(self):
            self._epoch, self._step = self._epoch + 1, 0
        while self._step < len(self):
            try:
                if self._stream is None:
                    self._stream = self._open(_places(self._epoch, self._step, len(self)))
                if self._lookahead is not None:
                    self._lookahead.advance(self._epoch, self._step)
                batch = self._next(self._stream)
            except BaseException:  # the stream is ahead of the position now: open a new one at the next attempt
                self.close()
                raise
            self._step += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """The position after the batches handed out so far; the same on every rank, for any number of workers."""
        place = self.plan.position(self._epoch, self._step)
        return {"version": _STATE_VERSION, **place, **self._identity()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from ``state``, on any number of ranks and workers.

        Raises:
            RunError: The order of samples changed since, or the position is not at the edge of a global batch.
        """
        if state["version"] != _STATE_VERSION:
            reason = f"the data position has version {state['version']}, this program reads {_STATE_VERSION}"
            raise RunError(reason, where="the checkpoint's data state", mend="resume with the version that wrote it")
        now = self._identity()
        before = {name: value for name, value in state.items() if name not in ("version", "epoch", "samples")}
        changed = [
            f"{name} was {before.get(name)} and is {now.get(name)}"
            for name in dict.fromkeys([*before, *now])
            if before.get(name) != now.get(name)
        ]
        if changed:
            reason = "the order of samples is not the one the checkpoint was written under: " + "; ".join(changed)
            mend = "restore these settings and the shards, or start a fresh run"
            raise RunError(reason, where="the checkpoint's data state", mend=mend)
        place = self.plan.locate(state["epoch"], state["samples"])
        self.close()
        self._epoch, self._step = place

    def close(self) -> None:
        """Stops the workers; the next iteration starts them again."""
        if self._lookahead is not None:
            self._lookahead.close()  # its threads must not live where new workers are forked
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _identity(self) -> dict[str, Any]:
        return {**self.plan.identity, "fingerprint": self.maker.fingerprint}


def _places(epoch: int, step: int, steps: int) -> Iterator[Place]:
    for number in itertools.count(epoch):
        for index in range(step if number == epoch else 0, steps):
            yield number, index
