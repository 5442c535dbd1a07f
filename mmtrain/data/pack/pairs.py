"""What there is to pack in a folder of images: from a table, from captions beside the images, or from class folders."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmtrain.data.pack.faults import BadItemError, Faults
from mmtrain.data.pack.rows import Row, open_table
from mmtrain.data.pack.walk import walk
from mmtrain.errors import DataError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
# Those that no shard may hold are listed too, so that they are told.
_ALL_SUFFIXES = IMAGE_SUFFIXES | {
    *(".gif", ".bmp", ".tif", ".tiff", ".heic", ".heif", ".avif", ".jp2", ".jxl", ".ppm", ".pgm", ".svg", ".ico")
}


@dataclass(frozen=True)
class Pair:
    """An image file, by its path in the folder, with its caption and label."""

    path: str
    caption: str
    label: int | None


@dataclass(frozen=True)
class CaptionTable:
    """A table of captions.

    Attributes:
        path: A ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet`` file.
        path_column: Names an image by its path in the folder.
        caption_column: Its caption.
        label_column: Its label, an integer; None where there is none.
    """

    path: Path
    path_column: str = "file"
    caption_column: str = "caption"
    label_column: str | None = None


def pairs_of_table(table: CaptionTable, faults: Faults) -> Iterator[Pair]:
    """The pairs in the order of the table; notes rows that cannot be used.

    Raises:
        DataError: The table is missing or damaged, or lacks a column.
    """
    columns = [table.path_column, table.caption_column]
    if table.label_column is not None:
        columns.append(table.label_column)
    rows = open_table(table.path, columns)
    for row in rows.rows(columns):
        try:
            label = None if table.label_column is None else _label(row, table.label_column)
            yield Pair(_inside(row.text(table.path_column)), row.text(table.caption_column), label)
        except BadItemError as bad:
            faults.add(f"{table.path.name}, {rows.unit} {row.number}", str(bad))


def classes_of_folder(folder: Path) -> list[str] | None:
    """The class folders, sorted, unless the first image has a caption beside it.

    Raises:
        DataError: There is no image.
    """
    first = next(walk(folder, _ALL_SUFFIXES), None)
    if first is None:
        wanted = ", ".join(sorted(IMAGE_SUFFIXES))
        raise DataError("the folder holds no image", where=str(folder), mend=f"name one that holds {wanted} files")
    if _caption_file(folder / first).exists():
        return None
    entries = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    return [name for name in entries if next(walk(folder / name, _ALL_SUFFIXES), None) is not None]


def pairs_of_folder(folder: Path, classes: list[str] | None, faults: Faults) -> Iterator[Pair]:
    """The images in the order of their paths; notes those without a caption or class.

    Args:
        folder: The images, at any depth.
        classes: Names of the class folders; None takes the captions from ``x.txt`` beside ``x.jpg``.
        faults: Where bad images are noted.
    """
    labels = {name: label for label, name in enumerate(classes or [])}
    for path in walk(folder, _ALL_SUFFIXES):
        try:
            if classes is None:
                yield Pair(path, _caption_beside(folder / path), None)
            elif _caption_file(folder / path).exists():
                raise BadItemError("it has a caption beside it, and other images have none")
            elif "/" not in path:
                raise BadItemError("it has no caption beside it, and lies in no class folder")
            else:
                name = path.partition("/")[0]
                yield Pair(path, name, labels[name])
        except BadItemError as bad:
            faults.add(path, str(bad))


def _inside(path: str) -> str:
    """The path, normalised, of a file that lies in the folder."""
    normal = os.path.normpath(path)
    if os.path.isabs(normal) or normal.split(os.sep)[0] == "..":
        raise BadItemError(f"its path leads out of the folder: {path!r}")
    return normal


def _label(row: Row, column: str) -> int:
    value: Any = row.values.get(column)
    try:
        label = int(value)
    except (TypeError, ValueError):
        raise BadItemError(row.fault or f"its {column!r} is {value!r}, not an integer") from None
    if label != float(value) or label < 0:
        raise BadItemError(f"its {column!r} is {value!r}, not an integer from 0")
    return label


def _caption_file(image: Path) -> Path:
    return image.with_suffix(".txt")


def _caption_beside(image: Path) -> str:
    path = _caption_file(image)
    try:
        caption = path.read_bytes().decode("utf-8-sig").strip()
    except FileNotFoundError:
        raise BadItemError(f"it has no caption {path.name} beside it") from None
    except UnicodeDecodeError:
        raise BadItemError(f"its caption {path.name} is not UTF-8") from None
    if not caption:
        raise BadItemError(f"its caption {path.name} is empty")
    return caption
