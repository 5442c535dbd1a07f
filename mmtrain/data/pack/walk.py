"""The files of a folder, in an order that no file system decides."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from mmtrain.errors import DataError


def walk(folder: Path, suffixes: Collection[str], inner: str = "") -> Iterator[str]:
    """Paths, from ``folder`` on, of the files with these suffixes, sorted by name within each folder.

    Hidden files and folders are left out; links are followed.

    Args:
        folder: Where to look, at any depth.
        suffixes: In small letters; those of files may be in capitals.
        inner: Where in ``folder`` to begin.

    Raises:
        DataError: A link leads back to a folder that it lies in.
    """
    for entry in sorted(os.scandir(folder / inner), key=lambda entry: entry.name):
        path = f"{inner}/{entry.name}" if inner else entry.name
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if entry.is_symlink() and (folder / inner).resolve().is_relative_to(Path(entry.path).resolve()):
                raise DataError("a link leads back to a folder that it lies in", where=entry.path, mend="remove it")
            yield from walk(folder, suffixes, path)
        elif entry.name.lower().endswith(tuple(suffixes)):
            yield path
