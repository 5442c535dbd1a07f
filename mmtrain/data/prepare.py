"""Making a data set's folder exactly once, however many processes ask for it and wherever one of them is killed."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from mmtrain.errors import DataError

MARKER = "dataset.json"
"""The file that says that a prepared folder is whole, and what made it."""


def prepare_once(root: Path, make: Callable[[Path], None]) -> None:
    """Runs ``make`` to fill ``root``, once for all processes that ask, and never leaves a half-filled ``root``.

    ``make`` works in a folder beside ``root``, which takes the name ``root`` only when every file is on the disk.
    Processes on one node wait for each other; nodes that share a file system may do the work twice, and the first
    to end wins. A folder left by a killed process of this node is removed.

    Args:
        root: The data set's folder. Where it is complete already, nothing is done.
        make: Fills the empty folder that it is given; it must write ``dataset.json`` into it.

    Raises:
        DataError: ``root`` holds files that no ``prepare`` of ours completed; they are left as they are.
    """
    if (root / MARKER).is_file():
        return
    root.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(root.parent / f".{root.name}.lock"):
        if (root / MARKER).is_file():
            return
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise DataError(
                f"this folder is in use and holds no {MARKER}, so it is not a prepared data set",
                where=str(root),
                mend="name another folder, or move this one away: nothing is ever overwritten",
            )
        node = f"{root.name}.tmp-{socket.gethostname()}-"
        for leftover in root.parent.iterdir():
            if leftover.name.startswith(node):
                shutil.rmtree(leftover)
        work = root.parent / f"{node}{os.getpid()}"
        work.mkdir()
        try:
            make(work)
            assert (work / MARKER).is_file(), f"make() wrote no {MARKER}"
            _flush(work)
            _publish(work, root)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _publish(work: Path, root: Path) -> None:
    """Gives ``work`` the name ``root``, unless another node was first."""
    try:
        work.rename(root)
    except OSError:
        if not (root / MARKER).is_file():
            raise
    _fsync(root.parent)


def _flush(folder: Path) -> None:
    """Waits until the files of ``folder`` and their names are on the disk."""
    for parent, _, names in os.walk(folder):
        for name in names:
            _fsync(Path(parent) / name)
        _fsync(Path(parent))


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
