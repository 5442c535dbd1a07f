"""The whole trainer beside a bare loop: the same experiment, data, model, loss and optimizer.

mmtrain's run has its default callbacks and its record on disk. The bare loop is what a paper's supplement would hold:
the loader, the loss, the gradient, its norm, the optimizer, the schedule.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from mmtrain.config import Root, compose, typed, validate
from mmtrain.run.build import Plan, build_data, build_loggers, build_objective, build_trainer
from mmtrain.run.datamodule import DataModule

WARMUP = 5


class _Clock(pl.Callback):
    def __init__(self) -> None:
        self.starts: list[float] = []

    def on_train_batch_start(self, *_: Any) -> None:
        self.starts.append(time.perf_counter())


def whole(overrides: Sequence[str], steps: int, folder: Path) -> list[float]:
    """Seconds of each step of a run."""
    plain, config = _config(overrides)
    data = build_data(config)
    data.prepare()
    trainer = build_trainer(config, Plan(1, steps, steps), folder, build_loggers(config, plain, folder, 0))
    trainer.limit_val_batches = 0
    clock = _Clock()
    trainer.callbacks.append(clock)  # type: ignore[attr-defined]
    trainer.fit(build_objective(config), datamodule=DataModule(data))
    return _durations(clock.starts)


def bare(overrides: Sequence[str], steps: int) -> list[float]:
    """Seconds of each step of the loop."""
    _, config = _config(overrides)
    data = build_data(config)
    data.prepare()
    objective = build_objective(config).train()
    parameters = list(objective.parameters())
    optimizer = objective.optim.build(objective.model)  # type: ignore[operator, union-attr]
    factor = partial(objective.optim.schedule.factor, total_steps=steps)  # type: ignore[union-attr]
    schedule = LambdaLR(optimizer, factor)
    starts = []
    loader = data.train_loader(0, 1)
    for batch in itertools.islice(_endless(loader), steps):
        starts.append(time.perf_counter())
        loss = objective.training_step(batch, 0)["loss"]
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
    loader.close()  # type: ignore[attr-defined]
    return _durations(starts)


def _endless(loader: Iterable[Any]) -> Iterator[Any]:
    """Epoch after epoch, so that the loader has as much to do behind a step as the trainer's has."""
    while True:
        yield from loader


def _config(overrides: Sequence[str]) -> tuple[dict[str, Any], Root]:
    composed = compose([*overrides, "logger=none", "callback.progress=null"])
    validate(composed)
    return composed.config, typed(composed.config)


def _durations(starts: Sequence[float]) -> list[float]:
    return [after - before for before, after in itertools.pairwise(starts)][WARMUP:]
