"""Texts to pack: which files hold them, where each document starts in them, and how they are cut into shards."""

from __future__ import annotations

import gzip
import shutil
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from mmtrain.data.pack.rows import BEGINNING, Row, Start, Table, lines, open_table
from mmtrain.data.pack.walk import walk
from mmtrain.errors import DataError, nearest

Split = Literal["file", "blank-line"]
"""What a document of a ``.txt`` file is: the whole file, or what stands between empty lines."""

_SUFFIXES = (".jsonl", ".csv", ".tsv", ".txt", ".jsonl.gz", ".csv.gz", ".tsv.gz", ".txt.gz", ".parquet")


class Source(NamedTuple):
    """A file of documents: its name for people, its path, and where it is read, which differs for a ``.gz``."""

    name: str
    path: str
    readable: str


class Piece(NamedTuple):
    """Documents that stand together in a file, from where the first one starts up to ``stop``, or to the end."""

    source: Source
    start: Start
    stop: int | None


class ShardText(NamedTuple):
    """The documents of a shard: the number of the first one in the whole input, and where they stand."""

    first: int
    pieces: list[Piece]


class PlainText:
    """A ``.txt`` file as a table of documents with one column, whatever it is called.

    Args:
        path: The file.
        split: What a document is.
    """

    unit = "line"

    def __init__(self, path: Path, split: Split) -> None:
        self.path = path
        self.columns: Sequence[str] = ()
        self._split = split

    def starts(self) -> Iterator[Start]:
        if self._split == "file":
            yield BEGINNING
            return
        was_blank = True
        for line in lines(self.path):
            is_blank = not line.data.strip()
            if was_blank and not is_blank:
                yield line.start
            was_blank = is_blank

    def rows(self, columns: Sequence[str], start: Start = BEGINNING, stop: int | None = None) -> Iterator[Row]:
        (column,) = columns
        if self._split == "file":
            yield _document(column, start, b"".join(line.data for line in lines(self.path)))
            return
        document: list[bytes] = []
        for line in lines(self.path, start, stop):
            if line.data.strip():
                start = start if document else line.start
                document.append(line.data)
            elif document:
                yield _document(column, start, b"".join(document).rstrip(b"\r\n"))
                document = []
        if document:
            yield _document(column, start, b"".join(document).rstrip(b"\r\n"))


def open_documents(path: Path, column: str, split: Split) -> Table:
    """Opens a file of documents.

    Raises:
        DataError: It is missing, damaged, or lacks the column.
        UserError: It is a Parquet file, and there is no pyarrow.
    """
    return PlainText(path, split) if path.suffix.lower() == ".txt" else open_table(path, [column])


def find_files(inputs: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """The files named, and those in the folders named, sorted within each folder; each with its name for people.

    Raises:
        DataError: An input is missing, or its suffix tells no format.
    """
    for path in inputs:
        if path.is_dir():
            for inner in walk(path, _SUFFIXES):
                yield inner, path / inner
        elif not path.is_file():
            near = nearest(path.name, (other.name for other in path.parent.glob("*")))
            mend = f"did you mean {near!r}?" if near else "mend its name, or copy it there"
            raise DataError("an input is missing", where=str(path), mend=mend)
        elif not path.name.lower().endswith(_SUFFIXES):
            reason = f"{path.suffix or 'a file without a suffix'} is no format of texts"
            mend = f"name files that end in {', '.join(_SUFFIXES)}"
            raise DataError(reason, where=str(path), mend=mend)
        else:
            yield path.name, path


def readable(path: Path, work: Path) -> Path:
    """Where a file can be read from any byte on: itself, or what a ``.gz`` holds, in ``work``.

    Raises:
        DataError: The ``.gz`` is damaged.
    """
    if path.suffix.lower() != ".gz":
        return path
    status = path.stat()
    unpacked = work / f"{status.st_ino}-{status.st_size}-{status.st_mtime_ns}-{path.stem}"
    if not unpacked.exists():
        beside = unpacked.with_name(f"{unpacked.name}.tmp")
        try:
            with gzip.open(path) as packed, beside.open("wb") as file:
                shutil.copyfileobj(packed, file, 1 << 20)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DataError(f"a damaged .gz: {error}", where=str(path), mend="copy or download it again") from None
        beside.replace(unpacked)
    return unpacked


def plan_shards(sources: Iterable[Source], column: str, split: Split, samples_per_shard: int) -> Iterator[ShardText]:
    """Cuts the documents of all sources, end to end, into shards, in one pass that holds one shard's pieces."""
    pieces: list[Piece] = []
    first = held = 0
    for source in sources:
        begin: Start | None = None
        for start in open_documents(Path(source.readable), column, split).starts():
            if held == samples_per_shard:
                if begin is not None:
                    pieces.append(Piece(source, begin, start.position))
                yield ShardText(first, pieces)
                first, held, pieces, begin = first + held, 0, [], None
            begin = begin or start
            held += 1
        if begin is not None:
            pieces.append(Piece(source, begin, None))
    if held:
        yield ShardText(first, pieces)


def _document(column: str, start: Start, data: bytes) -> Row:
    return Row(start.number, {column: data.decode(errors="surrogateescape")})
