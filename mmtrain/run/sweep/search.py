"""A search: each job asks Optuna for its values when it starts, and tells what it reached when it is done."""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from mmtrain import distributed
from mmtrain.callback.checkpoint_io import write_atomically, write_json
from mmtrain.callback.rng import stable_seed
from mmtrain.errors import ConfigError, RunError, did_you_mean
from mmtrain.run.sweep.check import quoted
from mmtrain.run.sweep.plan import Element, Sweep
from mmtrain.run.sweep.progress import Metric, Mode, Progress
from mmtrain.run.sweep.space import axes, require_optuna

Sampler = Literal["tpe", "random"]

_STUDY = "sweep"
_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Search:
    """What is searched for, and where.

    Attributes:
        sampler: ``tpe``, the tree-structured Parzen estimator (Bergstra et al. 2011), or ``random``.
        metric: Evaluation metric; a trial's value is the best that its run recorded.
        mode: Whether the largest or the smallest is sought.
        seed: Of the sampler. What trial I draws is a function of it, of I, and (``tpe``) of the trials told before.
        space: The overrides with several values.
    """

    sampler: Sampler
    metric: str
    mode: Mode
    seed: int
    space: tuple[str, ...]


def read_search(sweep: Sweep) -> Search | None:
    """The search that a sweep is; None for a grid."""
    path = _settings(sweep)
    if not path.exists():
        return None
    fields = json.loads(path.read_text())
    return Search(**{**fields, "space": tuple(fields["space"])})


def write_search(sweep: Sweep, search: Search) -> None:
    """Makes a sweep a search."""
    write_json(_settings(sweep), asdict(search))


def forget_search(sweep: Sweep) -> None:
    """Makes a sweep of which no trial was begun a grid."""
    _settings(sweep).unlink(missing_ok=True)


def monitored(config: Mapping[str, Any], metric: str | None, mode: Mode | None) -> Metric:
    """What a search optimises: a metric that is named, else the one by which a run chooses its best checkpoint.

    Args:
        config: Of a job.
        metric: The name; None for the checkpoint's.
        mode: The direction; None for that of the checkpoint, and ``max`` for another metric.

    Raises:
        ConfigError: Neither names one.
    """
    checkpoint = config["callback"].get("checkpoint") or {}
    name = metric or checkpoint.get("monitor")
    if name is None:
        raise ConfigError(
            "a search needs a metric",
            where="the command line, callback.checkpoint.monitor",
            mend="--metric eval/new_concept/i2t_recall@10 --mode max",
        )
    own_mode: Mode = checkpoint.get("mode", "max") if name == checkpoint.get("monitor") else "max"
    return Metric(name, mode or own_mode)


def monitoring(config: Mapping[str, Any], metric: Metric) -> list[str]:
    """Overrides that have a run keep its best checkpoint by the metric, so that it ends at once where there is none."""
    checkpoint = config["callback"].get("checkpoint")
    if not checkpoint or metric == Metric(checkpoint.get("monitor") or "", checkpoint.get("mode", "max")):
        return []
    key = "callback.checkpoint"
    return [f"{key}.monitor={quoted(metric.name)}", f"{key}.mode={metric.mode}"]


def suggest(sweep: Sweep, search: Search, index: int) -> tuple[str, ...]:
    """The overrides of a trial: asked for at its first start, and kept for all later ones. Rank 0 asks."""
    while (known := drawn(sweep, index)) is None:
        if distributed.rank() == 0:
            _ask(sweep, search, index)
        else:
            time.sleep(_POLL_SECONDS)
    return known


def drawn(sweep: Sweep, index: int) -> tuple[str, ...] | None:
    """The overrides of a trial that has asked; None for another."""
    path = _trial(sweep, index)
    return tuple(json.loads(path.read_text())["overrides"]) if path.exists() else None


def tell(sweep: Sweep, search: Search, element: Element) -> None:
    """Tells the value of a job that is done, and of all others that died between their last step and this.

    Raises:
        RunError: The job recorded no such metric.
    """
    progress = Progress(sweep.run(element), Metric(search.metric, search.mode)).refresh()
    if search.metric not in progress.metrics:
        raise RunError(
            f"the run recorded no metric {search.metric!r}",
            where=str(progress.run.metrics),
            mend=f"{did_you_mean(search.metric, progress.metrics)} ; begin the search anew with another --name",
        )
    _tell_done(sweep, search, _study(sweep, search, index=0))


def _ask(sweep: Sweep, search: Search, index: int) -> None:
    parameters = axes(search.space)
    study = _study(sweep, search, index)
    _tell_done(sweep, search, study)
    trial = study.ask({axis.key: axis.distribution for axis in parameters})
    overrides = [axis.override(trial.params[axis.key]) for axis in parameters]
    path = _trial(sweep, index)
    own = path.with_name(f".{path.name}.{os.getpid()}")
    content = json.dumps({"number": trial.number, "overrides": overrides}).encode()
    write_atomically(own, lambda file: file.write(content))
    try:
        os.link(own, path)  # a second process of the same job may have asked at the same time: the first one counts
    except FileExistsError:
        study.tell(trial, state=require_optuna().trial.TrialState.FAIL)
    finally:
        own.unlink()


def _tell_done(sweep: Sweep, search: Search, study: Any) -> None:
    states = require_optuna().trial.TrialState
    open_trials = {trial.number for trial in study.get_trials(deepcopy=False, states=(states.RUNNING,))}
    for element in sweep.elements():
        path, run = _trial(sweep, element.index), sweep.run(element)
        if not path.exists() or not run.done.exists():
            continue
        number = json.loads(path.read_text())["number"]
        if number in open_trials:
            best = Progress(run, Metric(search.metric, search.mode)).refresh().best
            # Another process may tell the same value at the same time.
            study.tell(number, best, state=states.FAIL if best is None else None, skip_if_finished=True)


def _study(sweep: Sweep, search: Search, index: int) -> Any:
    optuna = require_optuna()
    journal = optuna.storages.journal
    # Absolute: the lock is a link to the file, and what it leads to is looked at.
    backend = journal.JournalFileBackend(str((sweep.path / "journal.log").resolve()))
    seed = stable_seed(search.seed, "trial", index) & 0xFFFFFFFF  # numpy takes 32 bits
    if search.sampler == "tpe":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            # Several trials run at the same time: one draws nothing near another whose value is not known yet.
            sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
    else:
        sampler = optuna.samplers.RandomSampler(seed=seed)
    return optuna.create_study(
        storage=optuna.storages.JournalStorage(backend),
        sampler=sampler,
        study_name=_STUDY,
        direction={"max": "maximize", "min": "minimize"}[search.mode],
        load_if_exists=True,
    )


def _settings(sweep: Sweep) -> Path:
    return sweep.path / "search.json"


def _trial(sweep: Sweep, index: int) -> Path:
    return sweep.path / "trials" / f"{index:04d}.json"
