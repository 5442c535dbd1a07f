"""Rows of ``metrics.jsonl``: as text, read at once, and followed while they are written. Loads no PyTorch."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmtrain.errors import RunError

Row = dict[str, Any]

_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def line_of(row: Row) -> str:
    """A row as a line of the file. JSON has no NaN and no infinities: they are written as strings."""
    return json.dumps({key: _to_json(value) for key, value in row.items()}, allow_nan=False) + "\n"


def row_of(line: bytes) -> Row:
    """The row that a line holds.

    Raises:
        ValueError: It is no JSON object with a step.
    """
    row = json.loads(line)
    if not isinstance(row, dict) or not isinstance(row.get("step"), int):
        raise ValueError("not a JSON object with a step")
    return {key: number(value) for key, value in row.items()}


def number(value: Any) -> Any:
    """A value as it was before it was written."""
    return _NOT_FINITE.get(value, value) if isinstance(value, str) else value


def read_rows(path: Path, until_step: int | None = None) -> Iterator[Row]:
    """The rows of a ``metrics.jsonl`` as written, up to and with ``until_step``; a torn last line is left out.

    Raises:
        RunError: If a line other than the last is no JSON object with a step.
    """
    if not path.exists():
        return
    lines = path.read_bytes().split(b"\n")
    for count, line in enumerate(lines[:-1], start=1):
        try:
            row = row_of(line)
        except ValueError as error:
            raise RunError(
                "a row of the metrics is damaged", where=f"{path}:{count}", mend="delete this line or restore the file"
            ) from error
        if until_step is None or row["step"] <= until_step:
            yield row


class Tail:
    """The rows that a ``metrics.jsonl`` gets, as they are written.

    Args:
        path: The file, which need not be there yet.

    Attributes:
        damaged: Lines that were passed over, as they are no JSON objects with a step.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damaged = 0
        self._file = -1
        self._offset = 0

    def read(self) -> tuple[list[Row], bool]:
        """The whole rows that came since the last call.

        Returns:
            The rows, and whether the file was cut or replaced, as a resume does: then these are all that it has.
        """
        try:
            with self.path.open("rb") as file:
                found = self.path.stat()
                cut = self._file not in (-1, found.st_ino) or found.st_size < self._offset
                self._file, self._offset = found.st_ino, 0 if cut else self._offset
                file.seek(self._offset)
                whole, newline, _ = file.read().rpartition(b"\n")
        except OSError:
            return [], False  # there is none yet, or it is out of reach for a moment
        self._offset += len(whole) + len(newline)
        rows = []
        for line in whole.splitlines():
            try:
                rows.append(row_of(line))
            except ValueError:
                self.damaged += 1
        return rows, cut


def _to_json(value: Any) -> Any:
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
