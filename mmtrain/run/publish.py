"""Hands loggers the evidence of a run, when all of it is there."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml
from lightning.pytorch.loggers.logger import Logger

from mmtrain import distributed
from mmtrain.callback.checkpoint import read_best
from mmtrain.callback.checkpoint_io import CheckpointRecord, list_checkpoints, read_record
from mmtrain.errors import RunError
from mmtrain.logger.base import Evidence, KeepsEvidence, StoredCheckpoint
from mmtrain.run.manifest import Manifest, read_manifest
from mmtrain.run.manifest_file import NAME

_LOG = logging.getLogger(__name__)


@contextmanager
def published(loggers: Sequence[Logger], run: Path) -> Iterator[None]:
    """Keeps loggers open to the end of the context, at which the manifest must be complete, and closes them with it.

    Args:
        loggers: Of the run; those that take no evidence are left alone.
        run: Run directory.
    """
    takers = [logger for logger in loggers if isinstance(logger, KeepsEvidence)]
    for taker in takers:
        taker.stay_open()
    try:
        yield
    finally:
        evidence = gather_evidence(run) if takers and distributed.rank() == 0 else Evidence({}, ())
        for taker in takers:
            taker.close(evidence)


def gather_evidence(run: Path) -> Evidence:
    """The config without secrets, the manifest, and the checkpoints of a run that is finished.

    A run that will go on deletes its checkpoints sooner or later, so they are no evidence yet.

    Args:
        run: Run directory.
    """
    try:
        manifest = read_manifest(run)
        if manifest is None:
            return Evidence({}, ())
        config = yaml.safe_dump(manifest.config, sort_keys=False, allow_unicode=True)
        texts = {"config.yaml": config, NAME: (run / NAME).read_text(encoding="utf-8")}
    except (RunError, OSError) as error:
        _LOG.warning("loggers are given no evidence: %s", error)
        return Evidence({}, ())
    finished = manifest.newest.reason == "finished"
    return Evidence(texts, _checkpoints(run / "checkpoints", manifest) if finished else ())


def _checkpoints(folder: Path, manifest: Manifest) -> list[StoredCheckpoint]:
    """The best and the newest, which may be one."""
    best = read_best(folder)
    newest = next((record for path in reversed(list_checkpoints(folder)) if (record := read_record(path))), None)
    found = {record.step: record for record in (best, newest) if record is not None}
    return [_stored(folder, record, manifest, is_best=record == best) for _, record in sorted(found.items())]


def _stored(folder: Path, record: CheckpointRecord, manifest: Manifest, *, is_best: bool) -> StoredCheckpoint:
    return StoredCheckpoint(
        folder / record.file,
        step=record.step,
        bytes=record.bytes,
        xxh3=record.xxh3,
        parts={name: digest for name, (_, digest) in record.parts.items()},
        weights_sha256=manifest.weights_sha256 if record.step == manifest.newest.to_step else None,
        metrics=record.metrics,
        is_best=is_best,
    )
