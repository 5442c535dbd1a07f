"""Every job is composed and validated before the first one starts."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from hydra.core.override_parser.types import Quote, QuotedString

from mmtrain.config import Composed, compose, derive_batch, instantiate, typed, validate
from mmtrain.errors import ConfigError
from mmtrain.run.build import data_parallel_size
from mmtrain.run.sweep.grid import Job

_SHOWN = 3  # names of jobs that have one mistake


def checked(
    jobs: Sequence[Job], config_dirs: Sequence[Path], progress: Callable[[int], None] = lambda done: None
) -> list[Composed]:
    """The configs of all jobs.

    Args:
        jobs: What the sweep would run.
        config_dirs: Further config directories.
        progress: Called with the number of jobs checked.

    Raises:
        ConfigError: It lists every mistake once, with the jobs that have it.
    """
    configs = []
    models: set[str] = set()
    mistakes: dict[str, list[str]] = {}
    for number, job in enumerate(jobs, start=1):
        try:
            configs.append(_check(job, config_dirs, models))
        except ConfigError as error:
            mistakes.setdefault(str(error), []).append(job.name)
        progress(number)
    if mistakes:
        raise ConfigError(_listed(mistakes, len(jobs)))
    return configs


def refuse_equal(jobs: Sequence[Job], configs: Sequence[Composed]) -> None:
    """Refuses two jobs that would train the same twice.

    Raises:
        ConfigError: It names them.
    """
    names: dict[str, str] = {}
    for job, composed in zip(jobs, configs, strict=True):
        config = {key: value for key, value in composed.config.items() if key not in ("name", "run")}
        first = names.setdefault(json.dumps(config, sort_keys=True), job.name)
        if first != job.name:
            raise ConfigError(
                "two jobs are the same configuration",
                where=f"{first} and {job.name}",
                mend="vary what is used: a later override, or a file, sets the varied key anew",
            )


def naming(name: str) -> str:
    """The override that gives a run its name, which may hold what the grammar reads as several values."""
    return f"name={quoted(name)}"


def quoted(text: str) -> str:
    """A text as one value of an override."""
    return QuotedString(text, Quote.single).with_quotes()


def _check(job: Job, config_dirs: Sequence[Path], models: set[str]) -> Composed:
    """The config of a job, whose model can be built unless it is one of ``models``, which could."""
    composed = compose([*job.overrides, naming(job.name)], extra_dirs=config_dirs)
    validate(composed)
    config = typed(composed.config)
    if config.trainer.devices != "auto":  # those of the machine that submits tell nothing of the one that trains
        derive_batch(config.data["global_batch_size"], data_parallel_size(config), config.data["micro_batch_size"])
    if (model := json.dumps(config.model, sort_keys=True)) not in models:
        with torch.device("meta"):  # shapes alone, no memory
            instantiate(config.model, "model")
        models.add(model)
    return composed


def _listed(mistakes: dict[str, list[str]], total: int) -> str:
    wrong = sum(map(len, mistakes.values()))
    lines = [f"{wrong} of {total} jobs {'is' if wrong == 1 else 'are'} wrong, and none was started"]
    for mistake, names in mistakes.items():
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        who = "all jobs" if len(names) == total else f"{'; '.join(names[:_SHOWN])}{more}"
        lines += [f"- {who}:", *(f"    {line}" for line in mistake.splitlines())]
    return "\n".join(lines)
