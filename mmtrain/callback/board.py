"""What each rank says of itself to the others, in the store of the process group: no collective, no shared clock."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Literal

from torch.distributed import Store
from torch.distributed.distributed_c10d import _get_default_store

from mmtrain import distributed
from mmtrain.callback.heartbeat import Position

_PATIENCE = timedelta(seconds=30)
_PREFIX = "mmtrain/watchdog/"


@dataclass(frozen=True)
class Cause:
    """Why the job cannot go on.

    Attributes:
        kind: ``failed``: a rank ended by an error, which it tells itself. ``lost``: a process is gone. ``hung``.
        ranks: Those that it began with, as far as is known.
        reason: One sentence.
    """

    kind: Literal["failed", "lost", "hung"]
    ranks: tuple[int, ...]
    reason: str


class Board:
    """Positions of all ranks, and the first cause of an end. For one thread: it owns a connection of its own.

    Every method raises a ``RuntimeError`` where the store, which lives in rank 0 or in the launcher, is gone.

    Args:
        store: Of the process group.
        rank: This rank.
        world_size: Ranks of the job.
    """

    def __init__(self, store: Store, rank: int, world_size: int) -> None:
        self.rank = rank
        self.world_size = world_size
        self._store = store
        self._keys = [f"{_PREFIX}{number}" for number in range(world_size)]

    def post(self, position: Position) -> None:
        """Says where this rank stands, and that it lives."""
        self._store.set(self._keys[self.rank], json.dumps(asdict(position)))

    def read(self) -> list[bytes]:
        """What every rank posted last; empty until all have posted once."""
        if not self._store.check(self._keys):
            return []
        values: list[bytes] = self._store.multi_get(self._keys)
        return values

    def end(self, cause: Cause) -> Cause:
        """Declares that the job ends, and returns the cause that was declared first."""
        first = self._store.compare_set(f"{_PREFIX}end", "", json.dumps(asdict(cause)))
        return _cause(first)

    def ended(self) -> Cause | None:
        """The declared cause."""
        key = f"{_PREFIX}end"
        return _cause(self._store.get(key)) if self._store.check([key]) else None

    def raise_flag(self, name: str) -> None:
        """Sets a flag that all ranks see."""
        self._store.set(f"{_PREFIX}{name}", "1")

    def flag(self, name: str) -> bool:
        """Whether any rank has set the flag."""
        return bool(self._store.check([f"{_PREFIX}{name}"]))

    def count(self, name: str, more: int = 0) -> int:
        """Adds to a common counter, and returns what it stands at."""
        return int(self._store.add(f"{_PREFIX}{name}", more))


class Pulses:
    """Tells ranks that have fallen silent. What they post counts only by whether it changes, as seen by one clock."""

    def __init__(self) -> None:
        self._seen: list[tuple[bytes, float]] = []

    def silent(self, posted: Sequence[bytes], seconds: float) -> list[int]:
        """Ranks whose post has been the same for more than ``seconds``."""
        now = time.monotonic()
        if len(self._seen) != len(posted):
            self._seen = [(value, now) for value in posted]
        self._seen = [
            seen if seen[0] == value else (value, now) for seen, value in zip(self._seen, posted, strict=True)
        ]
        return [rank for rank, (_, since) in enumerate(self._seen) if now - since > seconds]


def open_board() -> Board | None:
    """The board of this process group; None for a lone process."""
    if distributed.world_size() == 1:
        return None
    store: Store = _get_default_store().clone()  # type: ignore[attr-defined]  # missing in its stubs
    store.set_timeout(_PATIENCE)
    return Board(store, distributed.rank(), distributed.world_size())


def position_of(posted: bytes) -> Position:
    """The position that a rank posted."""
    return Position(**json.loads(posted))


def _cause(text: bytes) -> Cause:
    fields = json.loads(text)
    return Cause(fields["kind"], tuple(fields["ranks"]), fields["reason"])
