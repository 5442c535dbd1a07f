"""Checkpoints on disk: written whole or not at all, and checked before they are used."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
import xxhash
from lightning.pytorch.plugins.io import CheckpointIO

from mmtrain.errors import RunError

_CHUNK_BYTES = 1 << 22


@dataclass(frozen=True)
class CheckpointRecord:
    """What stands in the JSON file beside a checkpoint: the proof that it is whole.

    Args:
        file: Name of the checkpoint, a file or (from sharded strategies) a folder, in the same folder.
        step: Optimizer steps completed.
        bytes: Size of the content.
        xxh3: 128-bit xxh3 of the content, in the order of sorted relative paths.
        metrics: Evaluation metrics of this very step; empty where none was due.
    """

    file: str
    step: int
    bytes: int
    xxh3: str
    metrics: dict[str, float]


class AtomicCheckpointIO(CheckpointIO):
    """Writes beside, flushes to disk, renames. A kill leaves the old file or the new one, never half of one."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        """Writes ``checkpoint`` to ``path``.

        Raises:
            TypeError: If ``storage_options`` are given: they have no meaning for a local file.
        """
        if storage_options is not None:
            raise TypeError("AtomicCheckpointIO takes no storage_options")
        write_atomically(Path(path), lambda file: torch.save(checkpoint, file))

    def load_checkpoint(
        self,
        path: str | os.PathLike[str],
        map_location: Any | None = lambda storage, location: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Reads a checkpoint of tensors and plain values; one that needs code to be loaded is refused.

        Raises:
            FileNotFoundError: If there is no such file.
            pickle.UnpicklingError: If it holds more than tensors and plain values.
        """
        checkpoint: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
        return checkpoint

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Removes a checkpoint; one that is gone already is no error."""
        _remove(Path(path))


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Calls ``write`` on a file beside ``path``, flushes it to disk, and renames it to ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    _sync_folder(path.parent)


def checkpoint_path(directory: Path, step: int) -> Path:
    """Where the checkpoint of ``step`` stands."""
    return directory / f"step_{step:08d}.ckpt"


def seal(partial: Path, path: Path, *, step: int, metrics: Mapping[str, float]) -> CheckpointRecord:
    """Makes a finished but unnamed checkpoint the checkpoint ``path``, and writes the record that vouches for it.

    Args:
        partial: The content, a file or a folder, beside ``path``.
        path: The final name. What stood there is replaced.
        step: Optimizer steps completed.
        metrics: Evaluation metrics of this step.
    """
    for file in _files(partial):
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
    size, digest = _measure(partial)
    record_path(path).unlink(missing_ok=True)
    if path.is_dir():
        shutil.rmtree(path)
    os.replace(partial, path)
    _sync_folder(path.parent)
    record = CheckpointRecord(file=path.name, step=step, bytes=size, xxh3=digest, metrics=dict(metrics))
    write_json(record_path(path), asdict(record))
    return record


def record_path(path: Path) -> Path:
    """The JSON file beside the checkpoint ``path``."""
    return path.with_suffix(".json")


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes a small JSON object atomically."""
    content = json.dumps(value, indent=1).encode() + b"\n"
    write_atomically(path, lambda file: file.write(content))


def read_record(path: Path) -> CheckpointRecord | None:
    """The record of the checkpoint ``path``; None where there is none or it is torn itself."""
    try:
        return CheckpointRecord(**json.loads(record_path(path).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def why_torn(path: Path) -> str | None:
    """Why the checkpoint ``path`` cannot be trusted; None where its size and hash match its record."""
    record = read_record(path)
    if record is None:
        return "it has no record: the job died while writing it"
    size, digest = _measure(path)
    if size != record.bytes:
        return f"it has {size} bytes, and {record.bytes} were written"
    if digest != record.xxh3:
        return "its hash differs from what was written"
    return None


def list_checkpoints(directory: Path) -> list[Path]:
    """All checkpoints in ``directory``, whole or torn, in the order of steps."""
    return sorted(directory.glob("step_*.ckpt"), key=lambda path: int(path.stem.removeprefix("step_")))


def latest_checkpoint(directory: Path) -> Path | None:
    """The newest whole checkpoint in ``directory``, or None. Warns of every torn one that it passes over.

    Raises:
        RunError: If there are checkpoints, and all are torn.
    """
    found = list_checkpoints(directory)
    for path in reversed(found):
        reason = why_torn(path)
        if reason is None:
            return path
        warnings.warn(f"checkpoint {path} is torn ({reason}); falling back to the one before", stacklevel=2)
    if found:
        raise RunError(
            "every checkpoint of this run is torn",
            where=str(directory),
            mend="restore one from a backup, or start over with run.fresh=true",
        )
    return None


def delete_checkpoint(path: Path) -> None:
    """Deletes a checkpoint, then its record: the other way round, a kill in between would leave a torn one."""
    _remove(path)
    record_path(path).unlink(missing_ok=True)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def _measure(path: Path) -> tuple[int, str]:
    """Size in bytes and xxh3 of a file, or of a folder's relative names and files."""
    size, digest = 0, xxhash.xxh3_128()
    for file in _files(path):
        if path.is_dir():
            digest.update(file.relative_to(path).as_posix().encode())
        with file.open("rb") as opened:
            while chunk := opened.read(_CHUNK_BYTES):
                size += len(chunk)
                digest.update(chunk)
    return size, digest.hexdigest()


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
