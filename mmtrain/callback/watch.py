"""The end of a process whose job cannot go on: it says why, once for all ranks, and leaves."""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path

from mmtrain.callback import stacks
from mmtrain.callback.board import Cause
from mmtrain.callback.children import Processes, first_death
from mmtrain.callback.heartbeat import Heart, ranges, span, table
from mmtrain.callback.pulse import Patience, Pulse
from mmtrain.errors import RunError

_LOG = logging.getLogger(__name__)

EXIT_STATUS = 1
_NAMED = 8
_BROKEN = ("connection", "gloo", "nccl", "broken pipe", "timed out", "peer", "socket")


class Watch(threading.Thread):
    """Looks for a reason to end this process. It calls neither Lightning nor a collective nor the device.

    Only the monotonic clock of this process is read, and compared with itself.

    Args:
        heart: Marked by the main thread.
        pulse: What the other ranks say; None for a lone process.
        children: Ranks that are children of this process.
        folder: Of stacks and of the report.
        rank: This rank.
        patience: How long what may take.
    """

    def __init__(
        self, heart: Heart, pulse: Pulse | None, children: Processes, folder: Path, rank: int, patience: Patience
    ) -> None:
        super().__init__(name="mmtrain-watchdog", daemon=True)
        self._heart = heart
        self._pulse = pulse
        self._children = children
        self._folder = folder
        self._rank = rank
        self._patience = patience
        self._stopped, self._unwinding, self._settled = threading.Event(), threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._told = False

    def stop(self) -> None:
        """Ends the watch."""
        self._stopped.set()

    def run(self) -> None:
        """Looks until there is a reason to end, or until it is stopped."""
        while not self._stopped.wait(self._patience.beat / 5):
            if (cause := self._look()) is not None:
                self._end(cause)
                return

    def follows_from(self, error: Exception) -> Cause | None:
        """The end of another rank that made ``error`` rise in the main thread; None where this rank failed first.

        It waits until that is known, and until the other ranks know it, too.
        """
        if self._pulse is None:
            return None
        self._unwinding.set()
        if is_broken_connection(error):
            self._pulse.suspect()
            self._pulse.found.wait(self._patience.suspected + 2 * self._patience.answer)
        if not self._pulse.found.is_set():
            reason = f"rank {self._rank} ended by {type(error).__name__}: {error}"
            self._pulse.declare(Cause("failed", (self._rank,), reason))
        if self._pulse.found.wait(self._patience.answer):
            self._settled.wait(2 * self._patience.answer)
        cause = self._pulse.cause
        return None if cause is None or (cause.kind == "failed" and self._rank in cause.ranks) else cause

    def tell(self, cause: Cause) -> RunError | None:
        """What this rank has to print; None where another rank does, or where it has been printed."""
        with self._lock:
            if self._told:
                return None
            self._told = True
        if cause.kind == "failed":  # that rank prints what happened
            if self._rank == 0:
                _LOG.info("the job ends: %s", cause.reason)
            return None
        return self._error(cause) if self._is_spokesman(cause) else None

    def _look(self) -> Cause | None:
        death = first_death(self._children)
        position = self._heart.position()
        if self._pulse is None:
            return Cause("hung", (0,), f"no progress for {span(position.seconds)}") if position.expired else None
        if death is not None:
            self._pulse.declare(death)
        elif self._rank != 0 and time.monotonic() - self._pulse.heard > self._patience.lost:
            self._pulse.conclude(Cause("lost", (0,), "the node of rank 0 cannot be reached"))
        return self._pulse.cause

    def _end(self, cause: Cause) -> None:
        if cause.kind == "hung":
            headline = f"{time.strftime('%FT%T%z')} rank {self._rank}: {self._heart.position()}"
            stacks.dump(self._folder / f"rank_{self._rank}.txt", headline)
        if self._pulse is not None:
            self._pulse.acknowledge()
            self._pulse.settled.wait(self._patience.answer)
        self._settled.set()
        # A main thread whose collective broke ends by itself and closes what it has open; one that hangs does not.
        if cause.kind != "hung":
            self._unwinding.wait(self._patience.beat)
        if not self._unwinding.is_set() and (error := self.tell(cause)) is not None:
            _LOG.error(str(error))
        if not (self._unwinding.is_set() and self._stopped.wait(self._patience.lost)):
            logging.shutdown()
            os._exit(EXIT_STATUS)

    def _error(self, cause: Cause) -> RunError:
        positions = self._pulse.positions if self._pulse is not None else [self._heart.position()]
        again = "the same command goes on from the last checkpoint"
        if cause.kind == "hung":
            return RunError(
                f"the job hangs, and ends itself. Where its ranks stood:\n{table(positions)}",
                where=f"the stacks of every rank are in {self._folder}/rank_N.txt",
                mend=f"see there what they waited for; {again}. If it was slow and not hung: callback.watchdog",
            )
        seen = [(rank, positions[rank]) for rank in cause.ranks[:_NAMED] if positions]
        last_seen = "; ".join(
            f"{ranges([rank])} on {at.host}, last seen {at.phase} (step {at.step})" for rank, at in seen
        )
        return RunError(
            f"{ranges(cause.ranks) if cause.ranks else 'the launcher'} is gone: {cause.reason}",
            where=last_seen or None,
            mend=f"look for the out-of-memory killer (dmesg) or a fault of the node; {again}",
        )

    def _is_spokesman(self, cause: Cause) -> bool:
        """Whether this rank tells: rank 0, or, where it is gone and the store with it, the first that wants to."""
        if cause.kind != "lost" or (cause.ranks and 0 not in cause.ranks):
            return self._rank == 0
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            (self._folder / "told").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


def is_broken_connection(error: Exception) -> bool:
    """Whether ``error`` is one of a collective. Gloo raises plain errors, so that their text has to tell."""
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(word in text for word in _BROKEN)
