"""From a command line to a plan on disk: the first one, or one with more jobs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mmtrain.config import Composed, compose
from mmtrain.errors import ConfigError, RunError
from mmtrain.run.sweep.check import checked, naming, refuse_equal
from mmtrain.run.sweep.grid import Job, expand, first_values
from mmtrain.run.sweep.plan import Element, Sweep, merge, refuse_other_config, sweep_directory, write_base, write_plan
from mmtrain.run.sweep.progress import Metric, Mode
from mmtrain.run.sweep.search import (
    Sampler,
    Search,
    forget_search,
    monitored,
    monitoring,
    read_search,
    write_search,
)
from mmtrain.run.sweep.space import axes, probe_jobs, split_space

Said = Callable[[int], None]

_MEND = "plan it under another --name; to add jobs, give a key more values: seed=1,2"


@dataclass(frozen=True)
class Planned:
    """A plan on disk, and the indices of the jobs that the command line asks for; it may have others."""

    sweep: Sweep
    indices: tuple[int, ...]


@dataclass(frozen=True)
class Wanted:
    """What a command line asks for.

    Attributes:
        overrides: In Hydra's grammar of sweeps.
        name: Of the sweep; None takes the experiment's.
        config_dirs: Further config directories.
    """

    overrides: tuple[str, ...]
    name: str | None
    config_dirs: tuple[Path, ...]


def plan_grid(wanted: Wanted, said: Said) -> Planned:
    """Plans every combination of the values.

    A plan of which no job was begun yet is replaced.

    Args:
        wanted: The command line.
        said: Called with the number of jobs checked.

    Raises:
        UserError: A job has a mistake, or the plan that is there was made with another config.
    """
    sweep = _sweep(wanted, first_values(wanted.overrides))
    old = _old_plan(sweep, None)
    jobs = expand(wanted.overrides, {line.partition("=")[0] for element in old for line in element.varied})
    configs = checked(jobs, wanted.config_dirs, said)
    refuse_equal(jobs, configs)
    base = [*jobs[0].overrides, naming(jobs[0].name)]
    if old:
        fixed = [line for line in jobs[0].overrides if line not in jobs[0].varied]
        base = [*fixed, *old[0].varied, naming(old[0].name)]
        refuse_other_config(sweep, base, wanted.config_dirs, _MEND)
    return _write(sweep, None, jobs, wanted.config_dirs, base, configs[0])


def plan_search(
    wanted: Wanted,
    said: Said,
    *,
    sampler: Sampler,
    trials: int,
    metric: str | None,
    mode: Mode | None,
    seed: int,
) -> Planned:
    """Plans trials of a search; their values are asked for when they start.

    A plan of which no job was begun yet is replaced.

    Args:
        wanted: The command line; values may be intervals, too.
        said: Called with the number of probes checked.
        sampler: How values are drawn.
        trials: How many; may grow when the command is repeated.
        metric: Evaluation metric to optimise; None for the one by which the best checkpoint is chosen.
        mode: Its direction; None for that of the best checkpoint, or ``max`` for another metric.
        seed: Of the sampler.

    Raises:
        UserError: A value of the space makes a config with a mistake, nothing tells the metric, or the plan that is
            there is of another search.
    """
    fixed, space = split_space(wanted.overrides)
    parameters = axes(space)
    sweep = _sweep(wanted, first_values(wanted.overrides))
    found = checked(probe_jobs(fixed, parameters), wanted.config_dirs, said)[0].config
    objective = monitored(found, metric, mode)
    fixed = [*fixed, *monitoring(found, objective)]
    search = Search(sampler, objective.name, objective.mode, seed, tuple(space))
    old = _old_plan(sweep, search)
    probes = probe_jobs(fixed, parameters)
    base = [*probes[0].overrides, naming(probes[0].name)]
    if old:
        refuse_other_config(sweep, base, wanted.config_dirs, _MEND)
    jobs = [Job(tuple(fixed), (f"trial={index:04d}",)) for index in range(trials)]
    return _write(sweep, search, jobs, wanted.config_dirs, base, compose(base, extra_dirs=wanted.config_dirs))


def planned_metric(sweep: Sweep) -> Metric | None:
    """What the jobs are compared by: the metric of the search, or the one that names the best checkpoint."""
    if (search := read_search(sweep)) is not None:
        return Metric(search.metric, search.mode)
    try:
        return monitored(sweep.base_config(), None, None)
    except ConfigError:
        return None


def _sweep(wanted: Wanted, overrides: Sequence[str]) -> Sweep:
    """The sweep's directory, by the name that a job's config has where none is given."""
    if wanted.name is not None:
        return sweep_directory(wanted.name)
    try:
        name = str(compose(overrides, extra_dirs=wanted.config_dirs).config["name"])
    except ConfigError as error:
        checked([Job(tuple(overrides), ())], wanted.config_dirs)  # has more to say, unless only the name is missing
        raise ConfigError("the sweep has no name", where="the command line", mend="--name NAME") from error
    return sweep_directory(name)


def _old_plan(sweep: Sweep, search: Search | None) -> list[Element]:
    """The plan that is there, of the same kind; nothing where no job of it was begun."""
    if not sweep.plan.exists() or not sweep.was_begun():
        return []
    found = read_search(sweep)
    if found != search:
        was, now = (asdict(one) if one is not None else {"search": "none, a grid"} for one in (found, search))
        lines = [f"{key}: {was.get(key)} -> {now.get(key)}" for key in (was | now) if was.get(key) != now.get(key)]
        raise RunError(
            "the sweep of this name is another search:\n    " + "\n    ".join(lines),
            where=str(sweep.path),
            mend="plan it under another --name",
        )
    return sweep.elements()


def _write(
    sweep: Sweep,
    search: Search | None,
    jobs: Sequence[Job],
    config_dirs: Sequence[Path],
    base: Sequence[str],
    config: Composed,
) -> Planned:
    with sweep.locked():
        old = _old_plan(sweep, search)  # another command may have written it in the meantime
        elements, indices = merge(old, jobs, config_dirs)
        if not old:
            write_base(sweep, base, config.config)
            if search is None:
                forget_search(sweep)
            else:
                write_search(sweep, search)
        write_plan(sweep, elements)
    return Planned(sweep, tuple(indices))
