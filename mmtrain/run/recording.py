"""Keeps a run's manifest while it trains: at the start, when the ranks have met, and at the end."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from mmtrain import distributed
from mmtrain.callback.checkpoint import read_best
from mmtrain.config import Composed
from mmtrain.config.secret import mask_argument, mask_arguments, mask_urls, masked
from mmtrain.errors import RunError, UserError
from mmtrain.logger.rows import read_rows
from mmtrain.run.code_state import read_code_state, write_patches
from mmtrain.run.data_record import DataRecord, read_data_record
from mmtrain.run.energy import CpuCounter, Energy, GpuCounter
from mmtrain.run.environment import device_name, nodes_of, read_environment, read_packages
from mmtrain.run.manifest import RNG_POLICY, Best, Manifest, Segment, read_manifest, write_manifest
from mmtrain.run.manifest_file import SCHEMA
from mmtrain.run.shard_hashes import shard_hashes
from mmtrain.run.source_tree import json_sha256
from mmtrain.run.stored import open_stored
from mmtrain.run.weights_hash import weights_sha256

_LOG = logging.getLogger(__name__)
_KEPT = ("eval/", "train/", "throughput/")
_LONGEST_REASON = 300


class Recording(pl.Callback):
    """The newest segment of a manifest, as it comes to be known.

    Rank 0 writes. The others tell it their hosts, devices and energy, and so are given this callback, too.

    Args:
        run: Run directory.
        config: The config.
        manifest: With the newest segment open; None on ranks other than 0.
    """

    def __init__(self, run: Path, config: Mapping[str, Any], manifest: Manifest | None) -> None:
        self.run = run
        self.config = config
        self._manifest = manifest
        self._step: int | None = None
        self._energy: Energy | None = None
        self._gpu: GpuCounter | None = None
        self._cpu: CpuCounter | None = None

    def plan(self, step: int, total_steps: int, data: DataRecord | None) -> None:
        """Notes what will be trained.

        Args:
            step: Steps completed before.
            total_steps: Steps of the whole run.
            data: What the run knows of its data; None where that was recorded before.
        """
        self._step = step
        if self._manifest is None:
            return
        self._manifest = replace(self._manifest, total_steps=total_steps)
        if data is not None:
            shards = shard_hashes(self.config, data.fingerprints)
            self._manifest = replace(self._manifest, data=data, shards=shards)
        self._change(from_step=step)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Has every rank say where it is, and begins to count energy."""
        device = trainer.strategy.root_device
        ranks = distributed.all_gather_object((socket.gethostname(), device_name(device)))
        self._gpu = GpuCounter(device)
        self._cpu = CpuCounter() if trainer.local_rank == 0 else None
        if self._manifest is None:
            return
        environment = replace(self._manifest.environments[self._manifest.newest.environment], nodes=nodes_of(ranks))
        key = json_sha256(asdict(environment))
        self._manifest.environments[key] = environment
        self._change(
            environment=key,
            world_size=trainer.world_size,
            strategy=type(trainer.strategy).__name__,
            precision=str(trainer.precision),
            threads=torch.get_num_threads(),
        )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts the step."""
        self._step = trainer.global_step
        self._poll()

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Looks at counters that go round."""
        self._poll()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Sums the energy of all ranks; that of a training that fails is not known."""
        gpu = self._gpu.joules() if self._gpu is not None else None
        cpu = self._cpu.joules() if self._cpu is not None else None
        ranks = distributed.all_gather_object((gpu, self._cpu is not None, cpu))
        energy = Energy(_sum([gpu for gpu, _, _ in ranks]), _sum([cpu for _, counts, cpu in ranks if counts]))
        self._energy = energy if energy else None

    def end(self, failure: str | None) -> None:
        """Closes the segment.

        Args:
            failure: The message of what ended it; None where nothing did.
        """
        if self._manifest is None:
            return
        finished = failure is None and self._step == self._manifest.total_steps
        final, weights = dict(self._manifest.final), self._manifest.weights_sha256
        try:
            final = _final_metrics(self.run)
            if (
                self._step is not None
                and finished
                and (weights is None or self._manifest.newest.from_step != self._step)
            ):
                weights = _weights(self.run, self._step)
        except (RunError, OSError) as error:
            _LOG.warning("the manifest lacks metrics or weights: %s", error)
        self._manifest = replace(
            self._manifest,
            best=_best(self.run, self._manifest.config),
            final=final,
            weights_sha256=weights if finished else None,
        )
        self._change(ended_at=_now(), to_step=self._step, reason=self._reason(finished, failure), energy=self._energy)

    def _reason(self, finished: bool, failure: str | None) -> str:
        if failure is not None:
            return f"failed: {failure}"
        if finished:
            return "finished"
        return "preempted" if (self.run / "REQUEUE").exists() else "failed: it stopped before its last step"

    def _change(self, **values: Any) -> None:
        assert self._manifest is not None, "only rank 0 has one"
        *before, newest = self._manifest.segments
        self._manifest = _pruned(replace(self._manifest, segments=[*before, replace(newest, **values)]))
        _write(self.run, self._manifest)

    def _poll(self) -> None:
        if self._cpu is not None:
            self._cpu.poll()


@contextmanager
def recorded(run: Path, composed: Composed, config_dirs: Sequence[Path]) -> Iterator[Recording]:
    """Opens a segment in the manifest of a run, and closes it with the reason why it ended.

    Args:
        run: Run directory, held by this process.
        composed: The config, and the overrides that it was composed from.
        config_dirs: Directories of the user's own configs.

    Raises:
        RunError: The run has a manifest that this version cannot go on with.
    """
    manifest = _open(run, composed, config_dirs) if distributed.rank() == 0 else None
    recording = Recording(run, composed.config, manifest)
    try:
        yield recording
    except BaseException as error:
        recording.end(_message(error))
        raise
    recording.end(None)


def _open(run: Path, composed: Composed, config_dirs: Sequence[Path]) -> Manifest:
    old, config = read_manifest(run), composed.config
    code, patches = read_code_state(config, config_dirs)
    code = write_patches(code, patches, run)
    for name, problem in code.problems.items():
        _LOG.warning("of the code of %s not all is recorded: %s", name, problem)
    packages, environment = read_packages(), read_environment()
    shown: dict[str, Any] = masked(config)
    repository = code.repositories.get("mmtrain")
    segment = Segment(
        started_at=_now(),
        host=environment.host,
        command=mask_arguments(sys.orig_argv),
        overrides=[mask_argument(override) for override in composed.overrides],
        cwd=os.getcwd(),
        job=os.environ.get("SLURM_JOB_ID"),
        config_sha256=json_sha256(shown),
        commit=repository.git.commit if repository is not None and repository.git is not None else None,
        code=code.sha256,
        packages=json_sha256(packages),
        environment=json_sha256(asdict(environment)),
    )
    manifest = Manifest(
        schema=SCHEMA,
        mmtrain=code.version,
        name=str(config["name"]),
        total_steps=old.total_steps if old else None,
        segments=[*_closed(old.segments, run), segment] if old else [segment],
        best=old.best if old else None,
        final=old.final if old else {},
        weights_sha256=old.weights_sha256 if old else None,
        config=shown,
        config_sha256=segment.config_sha256,
        seed=config["seed"],
        rng_policy=RNG_POLICY,
        data=read_data_record(run),
        code={**(old.code if old else {}), segment.code: code},
        packages={**(old.packages if old else {}), segment.packages: packages},
        environments={**(old.environments if old else {}), segment.environment: environment},
        earlier_configs={**old.earlier_configs, old.config_sha256: old.config} if old else {},
        shards=old.shards if old else {},
    )
    manifest.earlier_configs.pop(segment.config_sha256, None)
    _write(run, manifest)
    return manifest


def _write(run: Path, manifest: Manifest) -> None:
    """A full disk may cost a run its manifest, and does not stop it."""
    try:
        write_manifest(run, manifest)
    except OSError as error:
        _LOG.warning("the manifest was not written: %s", error)


def _closed(segments: Sequence[Segment], run: Path) -> list[Segment]:
    """The history, whose last segment was killed where it has no end."""
    *before, last = segments
    if last.reason is None:
        step = max((row["step"] for row in read_rows(run / "metrics.jsonl")), default=last.from_step)
        last = replace(last, reason="killed", to_step=step)
    return [*before, last]


def _pruned(manifest: Manifest) -> Manifest:
    """Without the environments of before the ranks met."""
    used = {segment.environment for segment in manifest.segments}
    return replace(manifest, environments={k: v for k, v in manifest.environments.items() if k in used})


def _final_metrics(run: Path) -> dict[str, float]:
    final: dict[str, float] = {}
    for row in read_rows(run / "metrics.jsonl"):
        final |= {key: value for key, value in row.items() if key.startswith(_KEPT)}
    return final


def _best(run: Path, config: Mapping[str, Any]) -> Best | None:
    record = read_best(run / "checkpoints")
    checkpoint = config["callback"].get("checkpoint") or {}
    monitor = checkpoint.get("monitor")
    return Best(monitor, record.step, record.metrics) if record is not None and monitor is not None else None


def _weights(run: Path, step: int) -> str | None:
    """Hash of the newest checkpoint's weights; None where it is not of the last step, or there is none."""
    if not (run / "checkpoints").is_dir():
        return None
    stored = open_stored(run, newest=True)
    return weights_sha256(stored.load_weights(live=True)) if stored.record.step == step else None


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None


def _message(error: BaseException) -> str:
    # Lightning turns Ctrl-C into an exit.
    if isinstance(error, KeyboardInterrupt) or isinstance(error.__context__, KeyboardInterrupt):
        return "interrupted"
    text = error.message if isinstance(error, UserError) else str(error)
    line = next(iter(text.splitlines()), "")
    return mask_urls(f"{type(error).__name__}: {line}")[:_LONGEST_REASON]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
