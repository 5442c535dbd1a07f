"""Tab-separated files without quotes, as GLUE's tasks are distributed: a quote mark is a character like any other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from mmtrain.data.pack.rows import Row, lines
from mmtrain.errors import DataError, did_you_mean


class UnquotedTsv:
    """A file of lines of fields.

    Args:
        path: The file.
        header: Names of the columns of a file whose first line is a row already; None reads them from that line.

    Raises:
        DataError: The file is missing or empty.
    """

    unit = "line"

    def __init__(self, path: Path, header: Sequence[str] | None = None) -> None:
        if not path.is_file():
            raise DataError("a table is missing", where=str(path), mend="mend its name, or copy it there")
        self.path = path
        self._has_header = header is None
        self.columns: Sequence[str] = header or self._first()

    def require(self, columns: Sequence[str]) -> None:
        """Raises a `DataError` where the file lacks one of these columns."""
        for column in columns:
            if column not in self.columns:
                mend = did_you_mean(column, self.columns)
                raise DataError(f"the table has no column {column!r}", where=str(self.path), mend=mend)

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        """The rows with these columns; one with too few or too many fields bears its fault."""
        for line in lines(self.path):
            if line.start.number == 1 and self._has_header:
                continue
            fields = _fields(line.data)
            if len(fields) == len(self.columns):
                values = dict(zip(self.columns, fields, strict=True))
                yield Row(line.start.number, {name: values[name] for name in columns})
            elif fields != [""]:
                reason = f"it has {len(fields)} fields, and the table {len(self.columns)} columns"
                yield Row(line.start.number, {}, reason)

    def _first(self) -> Sequence[str]:
        for line in lines(self.path):
            return _fields(line.data)
        raise DataError("the table holds no rows", where=str(self.path), mend="was it cut short? copy it again")


def _fields(line: bytes) -> list[str]:
    return line.decode(errors="surrogateescape").rstrip("\r\n").split("\t")
