"""Checkpoints on disk: written whole or not at all, and checked before they are used."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import torch
import xxhash
from lightning.pytorch.plugins.io import CheckpointIO
from torch import Tensor

from mmtrain.callback.checkpoint_shards import read_shards, shard_as
from mmtrain.errors import RunError

Measure = tuple[int, str]
"""Size in bytes and 128-bit xxh3."""

_CHUNK_BYTES = 1 << 22
_READERS = 8


@dataclass(frozen=True)
class CheckpointRecord:
    """What stands in the JSON file beside a checkpoint: the proof that it is whole.

    Args:
        file: Name of the checkpoint, a file or (from sharded strategies) a folder, in the same folder.
        step: Optimizer steps completed.
        bytes: Size of the content.
        xxh3: 128-bit xxh3 of a file's content, or of what a folder's parts are.
        metrics: Evaluation metrics of this very step; empty where none was due.
        parts: Size and 128-bit xxh3 of each file of a folder, by its name; none for a file.
    """

    file: str
    step: int
    bytes: int
    xxh3: str
    metrics: dict[str, float]
    parts: dict[str, Measure] = field(default_factory=dict)


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
        map_location: Mapping[str, Tensor] | None = None,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Reads a checkpoint of tensors and plain values; one that needs code to be loaded is refused.

        Args:
            path: A file or a folder.
            map_location: The parameters by name, where some are sharded: what stands under the name of one comes in
                the same shards, and of the rest of it nothing is read. All else comes whole, on the CPU.
            weights_only: Always so.

        Raises:
            FileNotFoundError: If there is no such file.
            pickle.UnpicklingError: If it holds more than tensors and plain values.
        """
        if Path(path).is_dir():
            return read_shards(Path(path), map_location)
        if map_location is not None:
            return shard_as(torch.load(path, map_location="cpu", weights_only=True, mmap=True), map_location)
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return checkpoint

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Removes a checkpoint; one that is gone already is no error."""
        remove(Path(path))


def read_weights(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, a file or a folder, on the CPU. An optimizer's moments are not read from the disk.

    Raises:
        OSError: A file cannot be read.
        RuntimeError: A file is damaged.
        pickle.UnpicklingError: A file holds more than tensors and plain values.
    """
    if path.is_dir():
        return read_shards(path, wanted=lambda place: place[0] != "optimizer_states")
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return content


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Calls ``write`` on a file beside ``path``, flushes it to disk, and renames it to ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.replace(_write_beside(path, write), path)
    _sync_folder(path.parent)


def _write_beside(path: Path, write: Callable[[BinaryIO], object]) -> Path:
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return partial


def checkpoint_path(directory: Path, step: int) -> Path:
    """Where the checkpoint of ``step`` stands."""
    return directory / f"step_{step:08d}.ckpt"


def seal(
    partial: Path,
    path: Path,
    *,
    step: int,
    metrics: Mapping[str, float],
    parts: Mapping[str, Measure] | None = None,
) -> CheckpointRecord:
    """Makes a finished but unnamed checkpoint the checkpoint ``path``, and writes the record that vouches for it.

    Args:
        partial: The content, a file or a folder, beside ``path``.
        path: The final name. What stood there is replaced.
        step: Optimizer steps completed.
        metrics: Evaluation metrics of this step.
        parts: Of a folder: what `measure` gave for each of its files, by name, which are on the disk already.
    """
    if partial.is_dir():
        measured = dict(sorted((parts or {file.name: measure(file) for file in partial.iterdir()}).items()))
        size, digest = _combined(measured)
        _sync_folder(partial)
    else:
        with partial.open("rb") as opened:
            os.fsync(opened.fileno())
        measured = {}
        size, digest = measure(partial)
    record = CheckpointRecord(path.name, step=step, bytes=size, xxh3=digest, metrics=dict(metrics), parts=measured)
    # Before anything is named, as the disk may be full.
    content = json.dumps(asdict(record), indent=1).encode() + b"\n"
    unsealed = _write_beside(record_path(path), lambda file: file.write(content))
    record_path(path).unlink(missing_ok=True)
    if path.is_dir():
        shutil.rmtree(path)
    os.replace(partial, path)
    os.replace(unsealed, record_path(path))
    _sync_folder(path.parent)
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
        record = CheckpointRecord(**json.loads(record_path(path).read_text()))
        return replace(record, parts={name: (size, digest) for name, (size, digest) in record.parts.items()})
    except (OSError, ValueError, TypeError):
        return None


def why_torn(path: Path) -> str | None:
    """Why the checkpoint ``path`` cannot be trusted; None where its size and hash match its record.

    It is read once, a folder's files side by side.
    """
    record = read_record(path)
    if record is None:
        return "it has no record: the job died while writing it"
    if not path.is_dir():
        return _why_differing("it", path, (record.bytes, record.xxh3))
    if _combined(record.parts) != (record.bytes, record.xxh3):
        return "its record does not belong to it"
    with ThreadPoolExecutor(_READERS) as pool:
        reasons = pool.map(lambda name: _why_differing(name, path / name, record.parts[name]), record.parts)
        return next((reason for reason in reasons if reason is not None), None)


def _why_differing(name: str, path: Path, written: Measure) -> str | None:
    if not path.is_file():
        return f"{name} is missing"
    if (found := path.stat().st_size) != written[0]:
        return f"{name} has {found} bytes, and {written[0]} were written"
    return None if measure(path) == written else f"the hash of {name} differs from what was written"


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
    remove(path)
    record_path(path).unlink(missing_ok=True)


def delete_unfinished(directory: Path) -> None:
    """Deletes what killed jobs have left in ``directory`` of checkpoints that they were writing."""
    for path in (*directory.glob(".step_*.unsealed"), *directory.glob(".step_*.partial")):
        remove(path)


def unsealed_path(path: Path) -> Path:
    """Where the checkpoint ``path`` is while it is written."""
    return path.with_name(f".{path.name}.unsealed")


def remove(path: Path) -> None:
    """Removes a file or a folder; one that is gone already is no error."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def measure(file: Path) -> Measure:
    """Size in bytes and 128-bit xxh3 of a file."""
    size, digest = 0, xxhash.xxh3_128()
    with file.open("rb") as opened:
        while chunk := opened.read(_CHUNK_BYTES):
            size += len(chunk)
            digest.update(chunk)
    return size, digest.hexdigest()


def _combined(parts: Mapping[str, Measure]) -> Measure:
    lines = "".join(f"{name} {size} {digest}\n" for name, (size, digest) in parts.items())
    return sum(size for size, _ in parts.values()), xxhash.xxh3_128_hexdigest(lines.encode())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
