"""Labelled texts in local tables: JSON lines, CSV, Parquet, and TSV as GLUE's tasks are distributed.

GLUE (Wang et al. 2018, arXiv:1804.07461) is downloaded from gluebenchmark.com, a folder a task; its test sets bear no
labels, and are not read.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmtrain.data.pack.faults import BadItemError, Faults
from mmtrain.data.pack.rows import Row, open_table
from mmtrain.data.prepare import MARKER
from mmtrain.data.sources.labelled import LabelledSample, prepare_from, write_split
from mmtrain.data.sources.tsv import UnquotedTsv
from mmtrain.errors import ConfigError, DataError, did_you_mean

VERSION = 1
"""To be raised whenever the same tables would give other shards."""


class Tables:
    """Tables with a column of texts, or two, and one of labels.

    Args:
        folder: Where the tables lie.
        files: A table for each split, by name: ``train``, and any number to evaluate on.
        text: Column of the text.
        text_b: Column of the second text of a pair.
        label: Column of the label.
        labels: What stands in that column, in the order of the classes' numbers; None where it holds the numbers to be
            predicted.
        classes: Names of the classes, where ``labels`` says little.
        header: Names of the columns of ``.tsv`` files that have no header.
        skip_bad: Leaves out rows that cannot be used, and counts them in ``dataset.json``.

    Raises:
        ConfigError: There is no table to train on, or classes and labels differ in number.
    """

    def __init__(
        self,
        folder: str | Path,
        files: Mapping[str, str],
        *,
        text: str = "text",
        text_b: str | None = None,
        label: str = "label",
        labels: Sequence[str] | None = None,
        classes: Sequence[str] | None = None,
        header: Sequence[str] | None = None,
        skip_bad: bool = False,
    ) -> None:
        if "train" not in files:
            mend = did_you_mean("train", files) if files else "name one: {train: train.tsv, val: dev.tsv}"
            raise ConfigError("there is no table to train on", where="data.source.files.train", mend=mend)
        names = labels if classes is None else classes
        if labels is not None and (len(set(labels)) < 2 or len(set(labels)) < len(labels)):
            reason = f"{list(labels)} are no classes"
            raise ConfigError(reason, where="data.source.labels", mend="name two or more, each once")
        if classes is not None and (labels is None or len(classes) != len(labels)):
            reason = f"there are {len(classes)} classes, and {len(labels or ())} labels"
            raise ConfigError(reason, where="data.source.classes", mend="give each label one name, in the same order")
        self.folder = Path(folder)
        self.files = dict(files)
        self.columns = [text, *([] if text_b is None else [text_b]), label]
        self.header = header
        self.skip_bad = skip_bad
        self._class_of = None if labels is None or names is None else dict(zip(labels, names, strict=True))

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.resolve().name

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the classes; None where labels are numbers."""
        return None if self._class_of is None else tuple(self._class_of.values())

    @property
    def eval_sets(self) -> tuple[str, ...]:
        """All tables but ``train``."""
        return tuple(name for name in self.files if name != "train")

    def prepare(self, root: Path) -> None:
        """Writes each table as shards into ``root``, unless they stand there.

        Raises:
            DataError: A table is missing or lacks a column; a row has an empty text or a label that is no class, and
                such rows are not skipped; or ``root`` was made from other tables.
        """
        made_from = {
            "source": "tables",
            "version": VERSION,
            "files": {split: _sha256(self.folder / name) for split, name in self.files.items()},
            "columns": self.columns,
            "header": self.header,
            "classes": self._class_of,
            "skip_bad": self.skip_bad,
        }

        def make(work: Path) -> None:
            splits = {}
            for split, name in self.files.items():
                faults = Faults(self.skip_bad)
                texts = list(self._read(self.folder / name, faults))
                _refuse(faults, self.folder / name)
                if not texts:
                    raise DataError("no row of a table can be used", where=str(self.folder / name))
                splits[split] = {**write_split(texts, work / split), "skipped": faults.count}
            content = {"made_from": made_from, "splits": splits}
            (work / MARKER).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

        prepare_from(root, made_from, make)

    def _read(self, path: Path, faults: Faults) -> Iterator[LabelledSample]:
        *texts, label = self.columns
        for row in self._rows(path):
            try:
                text, text_b = row.text(texts[0]), row.text(texts[1]) if len(texts) == 2 else None
                yield LabelledSample(text, self._label(row, label), text_b)
            except BadItemError as bad:
                faults.add(f"{path}, line {row.number}", str(bad))

    def _rows(self, path: Path) -> Iterator[Row]:
        if path.suffix.lower() == ".tsv":
            table = UnquotedTsv(path, self.header)
            table.require(self.columns)
            return table.rows(self.columns)
        return open_table(path, self.columns).rows(self.columns)

    def _label(self, row: Row, column: str) -> str | float:
        value = row.values.get(column)
        if value is None or value == "":
            raise BadItemError(f"its {column!r} is empty")
        if self._class_of is None:
            return _number(value, column)
        if str(value) not in self._class_of:
            raise BadItemError(f"its {column!r} is {value!r}: {did_you_mean(str(value), self._class_of)}")
        return self._class_of[str(value)]


def _number(value: Any, column: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise BadItemError(f"its {column!r} is {value!r}, not a number")
    return number


def _refuse(faults: Faults, path: Path) -> None:
    if faults.count and not faults.skip:
        lines = "".join(f"\n    {fault.where}: {fault.reason}" for fault in faults.found)
        more = faults.count - len(faults.found)
        told = lines + (f"\n    and {more:,} more" if more else "")
        mend = "mend them, or leave them out: data.source.skip_bad=true"
        raise DataError(f"{faults.count:,} rows of a table cannot be used:{told}", where=str(path), mend=mend)


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        mend = "set data.source.folder and data.source.files to where the tables lie"
        raise DataError(f"a table cannot be read: {error.strerror}", where=str(path), mend=mend) from None
