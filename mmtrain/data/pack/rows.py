"""Tables as streams of rows: JSON lines, CSV, TSV and Parquet, whole or from one row to another.

A row that is no row (a broken line, too few fields) is given with its fault, so that every reader counts alike.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from mmtrain.data.pack.faults import BadItemError
from mmtrain.errors import DataError, UserError, did_you_mean

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LONGEST_FIELD = 2**31 - 1
_BATCH_ROWS = 256


class Start(NamedTuple):
    """Where a row starts: a byte of a text file or a row of a Parquet file; and the line or row, from 1, for people."""

    position: int
    number: int


BEGINNING = Start(0, 1)


@dataclass(frozen=True)
class Row:
    """A row: the line or row it stands in, from 1; the fields asked for; and, where it cannot be read, why."""

    number: int
    values: Mapping[str, Any]
    fault: str | None = None

    def text(self, column: str) -> str:
        """The field as a text.

        Raises:
            BadItemError: It is missing, empty, of another type, or not UTF-8; or the row cannot be read at all.
        """
        if self.fault is not None:
            raise BadItemError(self.fault)
        if column not in self.values:
            raise BadItemError(f"it has no field {column!r}")
        value = self.values[column]
        if value is None or (isinstance(value, str) and not value.strip()):
            raise BadItemError(f"its {column!r} is empty")
        if not isinstance(value, str):
            raise BadItemError(f"its {column!r} is {value!r}, not a text")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise BadItemError(f"its {column!r} is not UTF-8") from None
        return value


class Table(Protocol):
    """A file of rows."""

    @property
    def path(self) -> Path: ...

    @property
    def unit(self) -> str:
        """What a row's number counts: ``line`` or ``row``."""

    @property
    def columns(self) -> Sequence[str]:
        """Names of the fields, those of the first row where rows may differ."""

    def starts(self) -> Iterator[Start]:
        """Where each row starts."""

    def rows(self, columns: Sequence[str], start: Start = BEGINNING, stop: int | None = None) -> Iterator[Row]:
        """The rows from ``start`` up to the one that starts at ``stop``, or to the end."""


def open_table(path: Path, columns: Sequence[str]) -> Table:
    """Opens a table that has these columns.

    Raises:
        DataError: It is missing, damaged, of an unknown kind, or lacks a column.
        UserError: It is a Parquet file, and there is no pyarrow.
    """
    kinds: dict[str, Callable[[Path], Table]] = {
        ".jsonl": JsonLines,
        ".csv": DelimitedText,
        ".tsv": DelimitedText,
        ".parquet": Parquet,
    }
    if path.suffix.lower() not in kinds:
        raise DataError(f"a table is {', '.join(kinds)}, not {path.suffix!r}", where=str(path), mend="convert it")
    if not path.is_file():
        raise DataError("a table is missing", where=str(path), mend="mend its name, or copy it there")
    table = kinds[path.suffix.lower()](path)
    for column in columns:
        if column not in table.columns:
            mend = did_you_mean(column, table.columns)
            raise DataError(f"the table has no column {column!r}", where=str(path), mend=mend)
    return table


class JsonLines:
    """One JSON object a line; empty lines count for nothing."""

    unit = "line"

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def columns(self) -> Sequence[str]:
        broken = None
        for line in lines(self.path):
            if not line.data.strip():
                continue
            try:
                return list(_json_object(line.data))
            except ValueError as error:
                broken = broken or (line.start.number, str(error))
        if broken is None:
            raise _without_rows(self.path)
        number, reason = broken
        mend = 'write one object a line: {"text": "..."}'
        raise DataError(f"no line holds an object: {reason}", where=f"{self.path}, line {number}", mend=mend)

    def starts(self) -> Iterator[Start]:
        return (line.start for line in lines(self.path) if line.data.strip())

    def rows(self, columns: Sequence[str], start: Start = BEGINNING, stop: int | None = None) -> Iterator[Row]:
        for line in lines(self.path, start, stop):
            if not line.data.strip():
                continue
            try:
                record = _json_object(line.data)
            except ValueError as error:
                yield Row(line.start.number, {}, str(error))
            else:
                yield Row(line.start.number, {name: record[name] for name in columns if name in record})


class DelimitedText:
    """CSV, or TSV by its suffix: a header, then rows; quoted fields may span lines."""

    unit = "line"

    def __init__(self, path: Path) -> None:
        self.path = path
        self._delimiter = "\t" if path.suffix.lower() == ".tsv" else ","

    @cached_property
    def columns(self) -> Sequence[str]:
        _, header = next(self._records(BEGINNING, None), (BEGINNING, []))
        if not header:
            raise _without_rows(self.path)
        return header

    def starts(self) -> Iterator[Start]:
        records = self._records(BEGINNING, None)
        next(records, None)
        return (start for start, _ in records)

    def rows(self, columns: Sequence[str], start: Start = BEGINNING, stop: int | None = None) -> Iterator[Row]:
        names = self.columns
        records = self._records(start, stop)
        if start == BEGINNING:
            next(records, None)
        for (_, number), fields in records:
            if len(fields) == len(names):
                values = dict(zip(names, fields, strict=True))
                yield Row(number, {name: values[name] for name in columns})
            else:
                yield Row(number, {}, f"it has {len(fields)} fields, and the header {len(names)}")

    def _records(self, start: Start, stop: int | None) -> Iterator[tuple[Start, list[str]]]:
        pulled: list[Start] = []

        def texts() -> Iterator[str]:
            for line in lines(self.path, start, stop):
                pulled.append(line.start)
                yield line.data.decode(errors="surrogateescape")

        csv.field_size_limit(_LONGEST_FIELD)  # its own 128 KiB is less than a document may have
        # Strict: otherwise a quote that is never closed takes the rest of the file for one field.
        reader = csv.reader(texts(), delimiter=self._delimiter, strict=True)
        try:
            for fields in reader:
                if fields:
                    yield pulled[0], fields
                pulled.clear()
        except csv.Error as error:
            where = f"{self.path}, line {pulled[0].number if pulled else start.number}"
            mend = 'quote a field that holds a quote as "...""..."'
            raise DataError(f"not a {self.path.suffix[1:]} table: {error}", where=where, mend=mend) from None


class Parquet:
    """A Parquet file, read in small batches of only the columns asked for.

    Raises:
        UserError: There is no pyarrow.
    """

    unit = "row"

    def __init__(self, path: Path) -> None:
        self.path = path
        self._arrow()

    @cached_property
    def columns(self) -> Sequence[str]:
        with self._open() as file:
            return list(file.schema_arrow.names)

    def starts(self) -> Iterator[Start]:
        with self._open() as file:
            return (Start(row, row + 1) for row in range(file.metadata.num_rows))

    def rows(self, columns: Sequence[str], start: Start = BEGINNING, stop: int | None = None) -> Iterator[Row]:
        position = start.position
        with self._open() as file:
            first, groups = 0, []
            for group in range(file.metadata.num_row_groups):
                end = first + file.metadata.row_group(group).num_rows
                if end > position and (stop is None or first < stop):
                    groups.append((first, group))
                first = end
            stop = first if stop is None else stop
            for first, group in groups:
                for batch in self._batches(file, group, columns):
                    skipped = min(batch.num_rows, max(0, position - first))
                    wanted = batch.slice(skipped, max(0, stop - max(first, position)))
                    for values in wanted.to_pylist():
                        yield Row(position + 1, values)
                        position += 1
                    first += batch.num_rows

    def _batches(self, file: Any, group: int, columns: Sequence[str]) -> Iterator[Any]:
        try:
            yield from file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=list(columns), use_threads=False)
        except (self._arrow().ArrowException, OSError) as error:
            raise self._damaged(error) from None

    def _open(self) -> Any:
        arrow = self._arrow()
        from pyarrow.parquet import ParquetFile

        try:
            return ParquetFile(self.path)
        except (arrow.ArrowException, OSError) as error:
            raise self._damaged(error) from None

    def _damaged(self, error: Exception) -> DataError:
        return DataError(f"the table cannot be read: {error}", where=str(self.path), mend="copy or write it again")

    def _arrow(self) -> Any:
        try:
            import pyarrow
        except ModuleNotFoundError:
            mend = 'pip install "mmtrain[parquet]", or write the table as .jsonl or .csv'
            raise UserError("Parquet needs the package pyarrow", where=str(self.path), mend=mend) from None
        return pyarrow


class Line(NamedTuple):
    """A line of a file, with its end, and where it starts."""

    start: Start
    data: bytes


def lines(path: Path, start: Start = BEGINNING, stop: int | None = None) -> Iterator[Line]:
    """The lines from ``start`` up to the one at byte ``stop``; without a byte order mark."""
    position = start.position
    with path.open("rb") as file:
        file.seek(position)
        for number, data in enumerate(file, start.number):
            if stop is not None and position >= stop:
                return
            yield Line(Start(position, number), data if position else data.removeprefix(_BYTE_ORDER_MARK))
            position += len(data)


def _json_object(line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:  # a UnicodeDecodeError too
        raise ValueError(f"it is not JSON: {error}") from None
    except RecursionError:
        raise ValueError("it is not JSON that can be read: nested too deeply") from None
    if not isinstance(record, dict):
        raise ValueError(f"it is a JSON {type(record).__name__}, not an object")
    return record


def _without_rows(path: Path) -> DataError:
    return DataError("the table holds no rows", where=str(path), mend="was it cut short? write or copy it again")
