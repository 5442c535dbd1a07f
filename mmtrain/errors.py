"""Errors for users: what is wrong, where it stands, and how to mend it. Commands print them without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake that the user can mend.

    Args:
        message: What is wrong, in one sentence.
        where: The file and line, override, shard or key at fault.
        mend: What to do about it.
    """

    def __init__(self, message: str, *, where: str | None = None, mend: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.mend = mend

    def __str__(self) -> str:
        lines = [self.message]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.mend:
            lines.append(f"  mend:  {self.mend}")
        return "\n".join(lines)


class ConfigError(UserError):
    """A key, value or override of the configuration is wrong."""


class DataError(UserError):
    """An archive, shard, sample or index is missing or damaged."""


class RunError(UserError):
    """A run directory or checkpoint cannot be used as asked."""


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate that ``name`` most likely was meant to be; None where none is near."""
    return next(iter(difflib.get_close_matches(name, sorted(set(candidates)), n=1, cutoff=0.55)), None)


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """``"did you mean 'x'?"`` for the candidate nearest to ``name``, or all of them, sorted, where none is near."""
    known = sorted(set(candidates))
    if near := nearest(name, known):
        return f"did you mean {near!r}?"
    return f"known: {', '.join(known)}" if known else "nothing is allowed here"
