"""A thread in which a rank tells the others that it lives and where it stands, and hears why the job must end."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from mmtrain.callback.board import Board, Cause, Pulses, position_of
from mmtrain.callback.heartbeat import Heart, Position, span


@dataclass(frozen=True)
class Patience:
    """How long what may take, in seconds.

    Attributes:
        beat: Between two signs of life.
        lost: Silence of a rank after which it is taken for gone.
    """

    beat: float
    lost: float

    @property
    def suspected(self) -> float:
        """Silence after which a rank is gone where another one's connection broke."""
        return min(3 * self.beat, self.lost)

    @property
    def answer(self) -> float:
        """Until every rank has heard of something and acted on it."""
        return 3 * self.beat


class Pulse(threading.Thread):
    """Exchanges signs of life. It works on while the main thread hangs in a collective, a read or a step.

    Args:
        board: What all ranks see.
        heart: Marked by the main thread.
        patience: How long what may take.

    Attributes:
        found: Set once `cause` is known.
        cause: Why the job must end, the same on all ranks that can hear.
        positions: Where all ranks stood, in the rank that found the cause and in rank 0.
        settled: Set when all ranks have acknowledged the cause; in others than rank 0, when this one has.
        heard: When the store last answered, by ``time.monotonic()``.
    """

    def __init__(self, board: Board, heart: Heart, patience: Patience) -> None:
        super().__init__(name="mmtrain-pulse", daemon=True)
        self.found, self.settled = threading.Event(), threading.Event()
        self.cause: Cause | None = None
        self.positions: list[Position] = []
        self.heard = time.monotonic()
        self._board = board
        self._heart = heart
        self._patience = patience
        self._pulses = Pulses()
        self._wake, self._stopped = threading.Event(), threading.Event()
        self._declared: Cause | None = None
        self._suspects = self._acknowledges = self._parts = False

    def declare(self, cause: Cause) -> None:
        """Tells all ranks that the job must end. The first cause that any rank declares is everyone's."""
        self._declared = self._declared or cause
        self._wake.set()

    def suspect(self) -> None:
        """Says that a connection broke, so that a silent rank is taken for gone sooner."""
        self._suspects = True
        self._wake.set()

    def acknowledge(self) -> None:
        """Says that this rank has acted on the cause."""
        self._acknowledges = True
        self._wake.set()

    def part(self) -> None:
        """Says that this rank is about to end well: from here on others may be gone before it."""
        self._parts = True

    def conclude(self, cause: Cause) -> None:
        """Takes ``cause`` for why the job must end, where the others cannot be asked."""
        if not self.found.is_set():
            self.cause = cause
            self.found.set()

    def stop(self) -> None:
        """Ends the thread."""
        self._stopped.set()
        self._wake.set()

    def run(self) -> None:
        """Exchanges signs of life until it is stopped or the store is gone."""
        try:
            while not self._stopped.is_set():
                self._beat()
                self.heard = time.monotonic()
                self._wake.wait(self._patience.beat)
                self._wake.clear()
        except RuntimeError:  # the store's errors have no narrower type in common
            if not self._parts:
                gone = () if self._board.rank == 0 else (0,)
                self.conclude(Cause("lost", gone, "rank 0, or the launcher beside it, has closed its connections"))
            self.settled.set()

    def _beat(self) -> None:
        position = self._heart.position()
        self._board.post(position)
        if self._suspects:
            self._board.raise_flag("suspicion")
        # Reading takes one message a rank, so only those read who need to: rank 0, and whoever does not get on.
        if self.cause is None and (self._board.rank == 0 or position.expired):
            posted = self._board.read()
            self.positions = [position_of(value) for value in posted]
            self._judge(posted, position)
        ended = self._board.end(self._declared) if self._declared is not None else self._board.ended()
        if ended is not None:
            self.conclude(ended)
            self._settle(ended)

    def _judge(self, posted: list[bytes], position: Position) -> None:
        if self._board.rank == 0 and not self._parts:
            silence = self._patience.suspected if self._board.flag("suspicion") else self._patience.lost
            if silent := self._pulses.silent(posted, silence):
                self.declare(Cause("lost", tuple(silent), f"no sign of life for {span(silence)}"))
        # A rank that is behind and still within its time, in a long evaluation or on a slow node, may be waited for.
        waits = any(other.marks < position.marks and not other.expired for other in self.positions)
        if position.expired and not waits:
            self.declare(Cause("hung", (self._board.rank,), f"no progress for {span(position.seconds)}"))

    def _settle(self, cause: Cause) -> None:
        if self._acknowledges and not self.settled.is_set():
            self._acknowledges = False
            self._board.count("acknowledged", 1)
            if self._board.rank != 0:
                self.settled.set()
        expected = self._board.world_size - (len(cause.ranks) if cause.kind == "lost" else 0)
        if self._board.rank == 0 and self._board.count("acknowledged") >= expected:
            self.settled.set()
