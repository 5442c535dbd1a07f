"""Input that cannot be packed: told all together, or left out and listed."""

from __future__ import annotations

from typing import NamedTuple

from mmtrain.errors import DataError

_SHOWN = 5


class Fault(NamedTuple):
    """One item that cannot be packed: the file and row, and why."""

    where: str
    reason: str


class BadItemError(Exception):
    """Raised for one item; whoever goes through the items counts it and goes on."""


class Faults:
    """The faults met so far.

    Args:
        skip: Bad items are left out and listed; otherwise `refuse` raises, and only the first few are kept.
    """

    def __init__(self, skip: bool) -> None:
        self.skip = skip
        self.count = 0
        self.found: list[Fault] = []

    def add(self, where: str, reason: str) -> None:
        """Notes a bad item."""
        self.count += 1
        if self.skip or len(self.found) < _SHOWN:
            self.found.append(Fault(where, reason))

    def refuse(self, where: str) -> None:
        """Raises for all that was noted, unless bad items are skipped.

        Raises:
            DataError: Names the first five and counts the rest.
        """
        if self.skip or not self.count:
            return
        lines = [f"\n    {fault.where}: {fault.reason}" for fault in self.found]
        if self.count > len(self.found):
            lines.append(f"\n    and {self.count - len(self.found):,} more")
        what = "1 item" if self.count == 1 else f"{self.count:,} items"
        mend = "mend them, or leave them out and list them in pack.json: --skip-bad (skip_bad=True)"
        raise DataError(f"{what} cannot be packed:{''.join(lines)}", where=where, mend=mend)
