"""``metrics.jsonl``, the record of truth: one JSON object a row, on disk as soon as it is logged."""

from __future__ import annotations

import csv
import os
import shutil
from argparse import Namespace
from collections.abc import Mapping, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from PIL import Image as PillowImage

from mmtrain import distributed
from mmtrain.logger.base import Cell, Image, RunLogger
from mmtrain.logger.rows import line_of, read_rows


class JsonlLogger(RunLogger):
    """Writes ``metrics.jsonl``, and pictures and tables as files under ``media/KEY/step_XXXXXXXX.*``.

    A row is ``{"step": S, NAME: VALUE, ...}``; one step may have several, of training, evaluation and speed. A row is
    flushed to disk before the next step, so a kill loses at most half a line, which the next start cuts off. JSON knows
    no NaN and no infinities: they are written as the strings "NaN", "Infinity" and "-Infinity", and :func:`read_rows`
    turns them back.

    Args:
        directory: The run directory.
        resume_step: The step that the run goes on from, 0 for its beginning. Rows of later steps are cut: they will be
            written again, and be the same.
    """

    def __init__(self, directory: Path, resume_step: int = 0) -> None:
        super().__init__()
        self.directory = directory
        self.resume_step = resume_step
        self._file: TextIOWrapper | None = None

    @property
    def name(self) -> str:
        """The run's name."""
        return self.directory.name

    @property
    def version(self) -> str:
        """Empty: a run directory holds one run."""
        return ""

    @property
    def path(self) -> Path:
        """Where the rows stand."""
        return self.directory / "metrics.jsonl"

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Appends a row."""
        if distributed.rank() != 0:
            return
        if self._file is None:
            _cut(self.path, self.resume_step)
            self._file = self.path.open("a", encoding="utf-8")
        self._file.write(line_of({"step": step, **metrics}))
        self._file.flush()
        os.fsync(self._file.fileno())

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Does nothing: the config stands in ``config.yaml``."""

    def log_table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]], step: int) -> None:
        """Writes a table as a CSV file."""
        with self._media(key, step, ".csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([columns, *rows])

    def log_image(self, key: str, image: Image, step: int) -> None:
        """Writes a picture, an array as PNG."""
        if isinstance(image, Path):
            shutil.copyfile(image, self._media(key, step, image.suffix))
        else:
            PillowImage.fromarray(image).save(self._media(key, step, ".png"))

    def finalize(self, status: str) -> None:
        """Closes the file; a later row opens it again, and cuts nothing."""
        if self._file is not None:
            self._file.close()
            self._file = None
            self.resume_step = max((row["step"] for row in read_rows(self.path)), default=0)

    def _media(self, key: str, step: int, suffix: str) -> Path:
        path = self.directory / "media" / key / f"step_{step:08d}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def _cut(path: Path, step: int) -> None:
    """Removes rows after ``step`` and a torn last line, atomically."""
    kept = "".join(line_of(row) for row in read_rows(path, until_step=step))
    if path.exists() and path.read_text(encoding="utf-8", errors="replace") == kept:
        return
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(kept)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
