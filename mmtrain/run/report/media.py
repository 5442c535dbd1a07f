"""Pictures and tables that a run left in ``media/``. Loads no PyTorch: the browser's view starts without it."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from mmtrain.errors import RunError

PICTURES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".gif": "image/gif",
}
"""Kinds of pictures by the ends of their files' names."""


@dataclass(frozen=True)
class Medium:
    """A file that a run logged.

    Attributes:
        key: What it was logged as: ``retrievals/new_style``.
        step: Steps completed.
        path: A picture, or a table in CSV.
    """

    key: str
    step: int
    path: Path

    @property
    def is_picture(self) -> bool:
        """Whether it is no table."""
        return self.path.suffix.lower() in PICTURES


def media_of(run: Path) -> list[Medium]:
    """All pictures and tables of a run, by key and step. A file of another name is none."""
    folder = run / "media"
    found = []
    for path in sorted(folder.rglob("step_*")):
        number = path.stem.removeprefix("step_")
        if number.isdigit() and (path.suffix.lower() in PICTURES or path.suffix == ".csv"):
            found.append(Medium(path.parent.relative_to(folder).as_posix(), int(number), path))
    return sorted(found, key=lambda medium: (medium.key, medium.step))


def read_table(path: Path) -> list[list[str]]:
    """The lines of a table, its header first.

    Raises:
        RunError: It is no CSV file.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.reader(file))
    except (csv.Error, UnicodeDecodeError) as error:
        raise RunError(f"a table of the run cannot be read: {error}", where=str(path), mend="remove it") from error
