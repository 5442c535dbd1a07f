"""The folder of a pack: ``pack.json`` says what is packed into it, and another pack is refused.

While the work goes on, ``.pack/`` holds a report of each finished shard; at the end ``pack.json`` sums them up.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mmtrain.data.pack.faults import Fault
from mmtrain.data.shards.atomic import write_atomically
from mmtrain.data.shards.manifest import MANIFEST, Manifest, load_manifest
from mmtrain.errors import DataError, RunError

RECORD = "pack.json"
_WORK = ".pack"
_UNFINISHED = ".tmp"
_ELSEWHERE = "name another folder, or move this one away: nothing is ever overwritten"


@dataclass(frozen=True)
class Report:
    """What became of a shard's items: the samples written, sums over them, and the items left out."""

    samples: int
    totals: Mapping[str, int] = field(default_factory=dict)
    skipped: list[Fault] = field(default_factory=list)


class PackFolder:
    """A folder that this process packs into; see `claim`.

    Args:
        path: The folder.
        prefix: Shards are named ``<prefix>-000000.tar`` and so on.
    """

    def __init__(self, path: Path, prefix: str) -> None:
        self.path = path
        self.work = path / _WORK
        self.prefix = prefix

    @classmethod
    @contextmanager
    def claim(cls, path: Path, prefix: str, made_from: Mapping[str, Any]) -> Iterator[PackFolder]:
        """Opens a folder that is new, or holds the same pack, for this process alone.

        Args:
            path: The folder; made where it is missing.
            prefix: Of the shards' names.
            made_from: All that decides what the shards hold, but for the inputs.

        Raises:
            DataError: The folder holds other things or another pack, or another process packs into it.
        """
        folder = cls(path, prefix)
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.parent / f".{path.name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            reason = "another process packs into this folder"
            raise DataError(reason, where=str(path), mend="wait for it, or name another folder") from None
        try:
            folder._begin(json.loads(json.dumps(made_from)))  # as it is read back, without tuples
            try:
                yield folder
            finally:
                folder._tidy()
        finally:
            lock.release()

    def confirm_inputs(self, inputs: Mapping[str, Any]) -> Manifest | None:
        """Notes what the inputs are, at the first start, or compares them with what they were.

        Returns:
            The finished data set, where nothing is left to do.

        Raises:
            DataError: The inputs changed since the pack was begun.
        """
        record = self._read()
        if record["inputs"] is None or (record["inputs"] != inputs and self._is_unused()):
            self._write(record | {"inputs": dict(inputs)})
        elif record["inputs"] != inputs:
            reason = f"the inputs changed since this pack was begun: {_differences(record['inputs'], inputs)}"
            raise DataError(reason, where=str(self.path / RECORD), mend=_ELSEWHERE)
        if record["result"] is None:
            return None
        if (self.path / MANIFEST).exists():
            return load_manifest(self.path / MANIFEST)
        self._write(self._read() | {"result": None})
        return None

    def shard(self, number: int) -> Path:
        """Path of a shard."""
        return self.path / f"{self.prefix}-{number:06d}.tar"

    def beside(self, path: Path) -> Path:
        """Where this process writes a file until it is whole."""
        return path.with_name(f".{path.name}.{os.getpid()}{_UNFINISHED}")

    def publish(self, number: int, unfinished: Path, report: Report) -> None:
        """Gives a shard its name, and keeps its report; a shard without samples is not kept.

        Raises:
            RunError: Another process took over the folder since, after this one's caller was killed.
        """
        if not unfinished.exists():
            raise RunError("another process packs into this folder now", where=str(self.path))
        # The report comes first: a shard that bears its name is finished, and its report is there.
        write_atomically(self._report(number), json.dumps(asdict(report)).encode())
        if report.samples:
            unfinished.replace(self.shard(number))
        else:
            unfinished.unlink()

    def finished(self, number: int) -> Report | None:
        """The report of a shard that is finished."""
        try:
            content = json.loads(self._report(number).read_bytes())
        except FileNotFoundError:
            return None
        report = Report(content["samples"], content["totals"], [Fault(*fault) for fault in content["skipped"]])
        return report if not report.samples or self.shard(number).exists() else None

    def complete(self, result: Mapping[str, Any]) -> None:
        """Notes that every shard is there and indexed."""
        self._write(self._read() | {"result": dict(result)})

    def _begin(self, made_from: Mapping[str, Any]) -> None:
        if (self.path / RECORD).exists():
            found = self._read()["made_from"]
            if found != made_from and not self._is_unused():
                reason = f"this folder holds another pack: {_differences(found, made_from)}"
                raise DataError(reason, where=str(self.path / RECORD), mend=_ELSEWHERE)
        elif self.path.exists() and (not self.path.is_dir() or any(self._others())):
            raise DataError("the folder is in use, and not by a pack", where=str(self.path), mend=_ELSEWHERE)
        else:
            found = None
        if found != made_from:
            self.path.mkdir(exist_ok=True)
            self._write({"made_from": made_from, "inputs": None, "result": None})
        self._remove_unfinished()
        self.work.mkdir(exist_ok=True)

    def _tidy(self) -> None:
        self._remove_unfinished()
        if self._read()["result"] is not None:
            shutil.rmtree(self.work, ignore_errors=True)

    def _is_unused(self) -> bool:
        """No shard was written yet: whoever mistyped an option, or mends the input, needs no other folder."""
        return not any(self.path.glob("*.tar")) and not any(self.work.glob("[0-9]*.json"))

    def _others(self) -> Iterator[Path]:
        """Files that are not what a process left that was killed while it wrote the first ``pack.json``."""
        return (path for path in self.path.iterdir() if not (path.name.startswith(RECORD) and path.suffix == ".tmp"))

    def _remove_unfinished(self) -> None:
        for path in self.path.glob(f".{self.prefix}-*{_UNFINISHED}"):
            path.unlink(missing_ok=True)

    def _report(self, number: int) -> Path:
        return self.work / f"{number:06d}.json"

    def _read(self) -> dict[str, Any]:
        path = self.path / RECORD
        try:
            record: dict[str, Any] = json.loads(path.read_bytes())
            return {name: record[name] for name in ("made_from", "inputs", "result")}
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"not the record of a pack: {error!r}", where=str(path), mend=_ELSEWHERE) from None

    def _write(self, record: Mapping[str, Any]) -> None:
        write_atomically(self.path / RECORD, json.dumps(record, indent=1, ensure_ascii=False).encode() + b"\n")


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    names = [*found, *(name for name in wanted if name not in found)]
    return "; ".join(
        f"{name} is {json.dumps(found.get(name))}, not {json.dumps(wanted.get(name))}"
        for name in names
        if found.get(name) != wanted.get(name)
    )
