"""``python -m mmtrain eval RUN [overrides]``: metrics of a run or a checkpoint, on its own data or any other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
import xxhash
import yaml
from rich.console import Console

from mmtrain import distributed
from mmtrain.config import Root, compose, typed, validate
from mmtrain.config.schema import Nodes
from mmtrain.errors import RunError
from mmtrain.logger.base import Cell, Image
from mmtrain.logger.jsonl import JsonlLogger
from mmtrain.run.build import Plan, build_data, build_objective, build_trainer, world_size
from mmtrain.run.datamodule import DataModule
from mmtrain.run.log import quiet_libraries
from mmtrain.run.origin import read_origin
from mmtrain.run.stored import StoredRun, open_stored
from mmtrain.run.summary import evaluation_summary

_SHOWN = ("retrievals", "samples")
"""Callbacks that show what a model does."""


def evaluate(run: str, overrides: Sequence[str]) -> None:
    """Evaluates the best checkpoint of a run, or its newest where none was named best, or the checkpoint given.

    Its weights are those that training evaluated: the averaged ones, where ``callback.ema`` kept some. The model is the
    run's; everything else may be overridden. For other data, seen through the run's tokenizer and transform:
    ``data.source=null data.root=DIR 'data.eval={NAME: retrieval}'``. The results, with pictures and texts, are added to
    ``RUN/eval/``.

    Args:
        run: Run directory or checkpoint file.
        overrides: In Hydra's grammar, on top of the run's own.

    Raises:
        RunError: There is no run, no checkpoint, or the checkpoint is torn.
    """
    stored = open_stored(Path(run))
    origin = read_origin(stored.directory)
    composed = compose([*origin.overrides, *overrides], extra_dirs=origin.config_dirs)
    composed = replace(composed, config={**composed.config, "model": stored.config["model"]})
    validate(composed)
    config = typed(composed.config)
    quiet_libraries()
    if config.trainer.threads is not None:
        torch.set_num_threads(config.trainer.threads)
    metrics, place = _measure(config, stored)
    if distributed.rank() == 0:
        Console().print(evaluation_summary(stored.checkpoint, place, metrics), crop=False)


class _Record(JsonlLogger):
    """Rows and pictures of the checkpoint's step: a trainer that only validates is always at step 0."""

    def log_table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]], step: int) -> None:
        super().log_table(key, columns, rows, self.resume_step)

    def log_image(self, key: str, image: Image, step: int) -> None:
        super().log_image(key, image, self.resume_step)


def _measure(config: Root, stored: StoredRun) -> tuple[dict[str, float], Path]:
    step = stored.record.step
    data = build_data(config)
    data.prepare()
    objective = build_objective(config)
    objective.load_state_dict(stored.load_weights())
    # Evaluations of one checkpoint on other data, or by other settings, stand side by side.
    digest = xxhash.xxh3_64_hexdigest(json.dumps([config.data, dict(data.fingerprints)], sort_keys=True).encode())[:8]
    place = stored.directory / "eval" / f"step_{step:08d}-{digest}"
    logger = _Record(place, resume_step=step)
    plan = Plan(world_size(config), total_steps=step, eval_every=1)
    config = replace(config, callback=Nodes({name: config.callback.get(name) for name in _SHOWN}))
    trainer = build_trainer(config, plan, place, [logger])
    trainer.validate(objective, datamodule=DataModule(data), verbose=False)
    metrics = {key: float(value) for key, value in sorted(trainer.callback_metrics.items())}
    if not metrics:
        raise RunError("there is nothing to evaluate on", where="data.eval", mend="'data.eval={NAME: retrieval}'")
    place.mkdir(parents=True, exist_ok=True)
    (place / "data.yaml").write_text(yaml.safe_dump(config.data, sort_keys=False, allow_unicode=True))
    logger.log_metrics(metrics, step=step)
    return metrics, place
