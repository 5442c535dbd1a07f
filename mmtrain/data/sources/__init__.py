"""Data sets that can be fetched and written as shards."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol


@dataclass(frozen=True)
class EvalSpec:
    """An evaluation set of a source: the folder it lies in, and what is measured on it.

    ``zeroshot`` sets have a ``classes.json`` and a ``label`` for each image; in a ``retrieval`` set, images and
    captions with the same label match.
    """

    name: str
    task: Literal["zeroshot", "retrieval"]


class Source(Protocol):
    """Where a data set comes from.

    Attributes:
        name: Short name, for messages.
        eval_sets: Its evaluation sets, by name.
    """

    @property
    def name(self) -> str: ...

    @property
    def eval_sets(self) -> dict[str, EvalSpec]: ...

    def prepare(self, root: Path) -> None:
        """Writes ``root/train`` and ``root/<evaluation set>``, each with shards and a ``manifest.json``.

        Does nothing where they stand. Safe to call from many processes at once, and to interrupt.

        Raises:
            DataError: Something cannot be fetched, or ``root`` holds something else.
        """
