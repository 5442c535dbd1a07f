"""The directory of a run: what stands where, who holds it, and whether it may be gone on with."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mmtrain import distributed
from mmtrain.callback.checkpoint_io import list_checkpoints, write_atomically
from mmtrain.errors import RunError
from mmtrain.run.dotted import flatten
from mmtrain.run.lock import Lock, await_rank_0, forget_refusals, refuse_all, take_lock

_LOG = logging.getLogger(__name__)

FREE_KEYS = (
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.threads",
    "trainer.log_every_n_steps",
    "strategy",
    "callback",
    "logger",
    "run",
    "data.root",  # the fingerprint in the checkpoint tells other data
    "data.num_workers",
    "data.micro_batch_size",
)
"""Config keys, with all below them, that change where and how fast a run goes, and not its trajectory."""

BOUND_KEYS = ("callback.guard", "callback.ema")
"""Those below free ones that do change it."""

_ABSENT = "(absent)"


@dataclass
class RunDirectory:
    """Paths in a run's directory, and the lock on it, which is held until :meth:`close` or the end of the process."""

    path: Path
    _lock: Lock | None = field(default=None, repr=False)

    @property
    def config(self) -> Path:
        """The config of the run, resolved."""
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        """The record of all metrics."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def media(self) -> Path:
        """Pictures and tables."""
        return self.path / "media"

    @property
    def log(self) -> Path:
        """What the program said."""
        return self.path / "log.txt"

    @property
    def wandb(self) -> Path:
        """The W&B files."""
        return self.path / "wandb"

    @property
    def requeue(self) -> Path:
        """The marker of a run that was asked to stop and wants to go on."""
        return self.path / "REQUEUE"

    @property
    def done(self) -> Path:
        """The marker of a run that reached its last step."""
        return self.path / "DONE"

    def close(self) -> None:
        """Gives up the lock."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def open_run(path: Path, config: Mapping[str, Any], fresh: bool = False) -> RunDirectory:
    """Makes ``path`` the directory of the run of ``config``, new or gone on with. Rank 0 writes; others get the paths.

    Args:
        path: The run directory.
        config: The resolved config, of plain dicts and values.
        fresh: Whether to begin anew; a run that stands there is moved to ``path.1``, ``path.2``, ...

    Raises:
        RunError: If another job holds the directory, it holds a run of another config, or it cannot be written.
    """
    if distributed.rank() != 0:
        await_rank_0(path)
        return RunDirectory(path)
    try:
        try:
            return _open(path, config, fresh)
        except BaseException:
            refuse_all(path)
            raise
    except OSError as error:
        raise RunError(
            f"the run directory cannot be written: {error.strerror}",
            where=str(path),
            mend="choose another place with run.dir=..., or mend its permissions or the full disk",
        ) from error


def _open(path: Path, config: Mapping[str, Any], fresh: bool) -> RunDirectory:
    run = RunDirectory(path, take_lock(path))
    try:
        if fresh and holds_run(path):
            _LOG.warning("moved the old run to %s", _move_aside(path))
            run.close()
            run = RunDirectory(path, take_lock(path))
        if holds_run(path):
            _refuse_other_config(run, config)
        forget_refusals(path)
        run.requeue.unlink(missing_ok=True)
        run.done.unlink(missing_ok=True)
        content = yaml.safe_dump(_plain(config), sort_keys=False, allow_unicode=True).encode()
        write_atomically(run.config, lambda file: file.write(content))
    except BaseException:
        run.close()
        raise
    return run


def holds_run(path: Path) -> bool:
    """Whether there is something in ``path`` that a new run would harm: a checkpoint or a row of metrics."""
    metrics = path / "metrics.jsonl"
    return bool(list_checkpoints(path / "checkpoints")) or (metrics.exists() and metrics.stat().st_size > 0)


def config_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Keys whose change changes the trajectory, in dotted form, with their old and new values."""
    flat_old, flat_new = flatten(_plain(old)), flatten(_plain(new))
    keys = sorted(flat_old.keys() | flat_new.keys())
    pairs = {key: (flat_old.get(key, _ABSENT), flat_new.get(key, _ABSENT)) for key in keys if not _is_free(key)}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _refuse_other_config(run: RunDirectory, config: Mapping[str, Any]) -> None:
    if not run.config.exists():
        raise RunError(
            "the directory holds checkpoints or metrics, and no config.yaml to tell of which run",
            where=str(run.path),
            mend="choose another name=..., or run.fresh=true to move it aside",
        )
    differences = config_differences(yaml.safe_load(run.config.read_text()) or {}, config)
    if differences:
        lines = [f"{key}: {old} -> {new}" for key, (old, new) in differences.items()]
        raise RunError(
            "the directory holds a run of another config:\n    " + "\n    ".join(lines),
            where=str(run.path),
            mend="choose another name=..., or run.fresh=true to move the old run aside and begin anew",
        )


def _move_aside(path: Path) -> Path:
    number = 1
    while (target := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    return path.rename(target)


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config as it reads back from YAML's and JSON's common ground: tuples are lists."""
    plain: dict[str, Any] = json.loads(json.dumps(config))
    return plain


def _is_free(key: str) -> bool:
    return _is_among(key, FREE_KEYS) and not _is_among(key, BOUND_KEYS)


def _is_among(key: str, names: Iterable[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)
