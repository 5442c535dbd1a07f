"""``python -m mmtrain [overrides]``: compose, validate, prepare, train or go on training, tell what came out."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from mmtrain import distributed
from mmtrain.callback.checkpoint_io import latest_checkpoint, read_record
from mmtrain.callback.watchdog import blamed
from mmtrain.config import Composed, Root, compose, typed, validate
from mmtrain.logger.rows import read_rows
from mmtrain.run.build import build_data, build_loggers, build_objective, build_trainer, plan_run, world_size
from mmtrain.run.cluster import require_ranks, tell_batch_script
from mmtrain.run.data_record import record_data, require_recorded_tokenizer
from mmtrain.run.datamodule import Data, DataModule, TokenData
from mmtrain.run.directory import RunDirectory, open_run
from mmtrain.run.launch import tied_to_launcher
from mmtrain.run.log import logged, quiet_libraries, shown
from mmtrain.run.origin import Origin, write_origin
from mmtrain.run.pretrained import start_from_pretrained
from mmtrain.run.publish import published
from mmtrain.run.recording import Recording, recorded
from mmtrain.run.summary import run_summary

_LOG = logging.getLogger(__name__)


def train(overrides: Sequence[str], extra_dirs: Sequence[Path] = ()) -> None:
    """Trains the run that the overrides describe; one that was begun before goes on from its newest checkpoint.

    Args:
        overrides: In Hydra's grammar.
        extra_dirs: Further config directories.

    Raises:
        UserError: Whatever the user can mend, before anything is built wherever it can be known then.
    """
    composed = compose(overrides, extra_dirs=extra_dirs)
    validate(composed)
    train_composed(composed, Origin(composed.overrides, tuple(path.resolve() for path in extra_dirs)))


def train_composed(composed: Composed, origin: Origin) -> None:
    """Trains a validated config.

    Args:
        composed: The config.
        origin: What a later ``resume`` composes it from.
    """
    config = typed(composed.config)
    quiet_libraries()
    if config.trainer.threads is not None:
        torch.set_num_threads(config.trainer.threads)
    require_ranks(world_size(config) // config.trainer.num_nodes, config.trainer.num_nodes)
    data = build_data(config)
    fresh = config.run.fresh and not _restarted()
    first = distributed.rank() == 0
    with ExitStack() as stack:
        stack.enter_context(tied_to_launcher())
        stack.enter_context(shown())
        run = open_run(Path(config.run.dir), composed.config, fresh)
        stack.callback(run.close)
        if first:
            write_origin(run.path, origin)
            stack.enter_context(logged(run.log))
        with recorded(run.path, composed, origin.config_dirs) as recording:
            step, total_steps = _fit(config, composed.config, data, run, fresh, recording, stack)
        if first:
            if step == total_steps:
                run.done.touch()
            _summarise(run, step, total_steps)


def _fit(
    config: Root,
    plain: Mapping[str, Any],
    data: Data,
    run: RunDirectory,
    fresh: bool,
    recording: Recording,
    stack: ExitStack,
) -> tuple[int, int]:
    """Trains what is left of the run; returns the steps completed and the steps of the whole run."""
    data.prepare()
    tokens = data.tokens_per_sample if isinstance(data, TokenData) else None
    plan = plan_run(config, data.steps_per_epoch(), tokens)
    # With fresh=true rank 0 is moving the old run aside just now: nobody looks for its checkpoints.
    newest = None if fresh else latest_checkpoint(run.checkpoints)
    step = _step_of(newest) if newest is not None else 0
    if newest is not None:
        require_recorded_tokenizer(data, run.path)
    first_start = newest is None and distributed.rank() == 0
    recording.plan(step, plan.total_steps, record_data(data, run.path) if first_start else None)
    _announce(run, step, plan.total_steps)
    if step < plan.total_steps:
        loggers = build_loggers(config, plain, run.path, step)
        stack.enter_context(published(loggers, run.path))
        trainer = build_trainer(config, plan, run.path, loggers, recording)
        objective = build_objective(config)
        if newest is None:
            start_from_pretrained(objective.get_submodule("model"), run.path)
        with blamed(trainer):
            trainer.fit(objective, datamodule=DataModule(data), ckpt_path=newest, weights_only=True)
        step = trainer.global_step
    return step, plan.total_steps


def _restarted() -> bool:
    """Whether a scheduler started this job again: ``run.fresh=true`` was meant for its first start."""
    return any(int(os.environ.get(name, "0")) > 0 for name in ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT"))


def _step_of(checkpoint: Path) -> int:
    record = read_record(checkpoint)
    assert record is not None, "latest_checkpoint() returns checkpoints with a record"
    return record.step


def _announce(run: RunDirectory, step: int, total_steps: int) -> None:
    if distributed.rank() == 0:
        going_on = f"going on at step {step} of {total_steps}" if step < total_steps else "nothing is left to train"
        line = f"{going_on if step else f'training {total_steps} steps'} in {run.path}"
        Console().print(line, highlight=False, markup=False, soft_wrap=True)
        _LOG.info(line)
        tell_batch_script(run.path, step)


def _summarise(run: RunDirectory, step: int, total_steps: int) -> None:
    metrics: dict[str, float] = {}
    for row in read_rows(run.metrics):
        metrics |= {key: value for key, value in row.items() if key.startswith(("eval/", "train/loss", "throughput/"))}
    command = f"python -m mmtrain resume {run.path}"
    Console().print(run_summary(run, metrics, step=step, total_steps=total_steps, command=command), crop=False)
