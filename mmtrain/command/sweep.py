"""``python -m mmtrain sweep``: many runs from one command, here or on a cluster; what became of them; one of them."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from mmtrain import distributed
from mmtrain.command.sweep_here import print_table, run_here
from mmtrain.command.train import train_composed
from mmtrain.errors import ConfigError
from mmtrain.run.origin import Origin
from mmtrain.run.sweep.element import composed_element
from mmtrain.run.sweep.plan import Sweep
from mmtrain.run.sweep.planner import Planned, Wanted, plan_grid, plan_search
from mmtrain.run.sweep.search import read_search, suggest, tell
from mmtrain.run.sweep.slurm import array_script, queued, sbatch_command, submit
from mmtrain.run.sweep.state import State, counts, statuses

_EPILOG = """\
Values are Hydra's: seed=1,2,3  seed=range(1,4)  model=choice(vit,clip); for a search also optim.lr=interval(1e-4,1e-2)
and 'optim.lr=tag(log,interval(1e-4,1e-2))'. Without --local and --slurm the plan is made and nothing is started."""


def sweep(argv: Sequence[str]) -> int:
    """Plans a sweep and runs or submits what is missing; or ``run SWEEP_DIR INDEX``, or ``status SWEEP_DIR``.

    Returns:
        0; of a sweep that ran here, and of ``status``, 1 unless all jobs are done.

    Raises:
        UserError: Whatever is wrong in any job, before the first one starts.
    """
    verb, *rest = argv or ["--help"]
    if verb == "run":
        return _run_element(rest)
    if verb == "status":
        return _status(rest)
    return _sweep(list(argv))


def _sweep(argv: Sequence[str]) -> int:
    own, options = _split(argv)
    arguments = _parser().parse_intermixed_args(own)
    if options and not arguments.slurm:
        raise ConfigError("options for sbatch, and nothing is submitted", where="after --", mend="add --slurm")
    if not arguments.search and (given := _search_options(arguments)):
        raise ConfigError(f"{given} is an option of a search", where="the command line", mend="add --search tpe")
    script = (arguments.script or array_script()) if arguments.slurm else None
    planned = _plan(arguments)
    with planned.sweep.locked():
        waiting = queued(planned.sweep)
        found = statuses(planned.sweep, planned.sweep.elements(), waiting)
        missing = [index for index in planned.indices if found[index].is_missing and index not in waiting]
        wanted = len(planned.indices)
        print(f"{planned.sweep.path}: {wanted} jobs, {counts(found[index] for index in planned.indices)}")
        if script is not None and missing:
            command = sbatch_command(planned.sweep, missing, options, script, arguments.jobs)
            print(f"submitted job {submit(planned.sweep, command)}: {shlex.join(command)}")
            print(f"look: python -m mmtrain sweep status {planned.sweep.path}")
            if arguments.search == "tpe" and arguments.jobs is None:
                print("note: tpe learns only from jobs that are done; --jobs N bounds how many run at a time")
            return 0
    if not missing:
        print("nothing is to run")
        return 0
    if arguments.local:
        return run_here(planned.sweep, missing, arguments.jobs or 1, _command(argv))
    _say_what_would_run(planned, missing)
    return 0


def _run_element(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser("python -m mmtrain sweep run", description="Runs one job of a plan.")
    parser.add_argument("sweep", type=Path, metavar="SWEEP_DIR")
    parser.add_argument("index", type=int, metavar="INDEX", help="of the plan; of an array, $SLURM_ARRAY_TASK_ID")
    arguments = parser.parse_args(argv)
    planned = Sweep(arguments.sweep)
    element = planned.element(arguments.index)
    search, run = read_search(planned), planned.run(element)
    if not run.done.exists():
        chosen = suggest(planned, search, element.index) if search is not None else ()
        composed = composed_element(planned, element, chosen)
        train_composed(composed, Origin(composed.overrides, tuple(Path(name) for name in element.config_dirs)))
    if search is not None and run.done.exists() and distributed.rank() == 0:
        tell(planned, search, element)
    return 0


def _status(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser("python -m mmtrain sweep status", description="What became of each job.")
    parser.add_argument("sweep", type=Path, metavar="SWEEP_DIR")
    planned = Sweep(parser.parse_args(argv).sweep)
    elements = planned.elements()
    found = statuses(planned, elements, queued(planned))
    print_table(planned, elements, found)
    return 0 if all(status.state == State.DONE for status in found.values()) else 1


def _plan(arguments: argparse.Namespace) -> Planned:
    wanted = Wanted(tuple(arguments.overrides), arguments.name, tuple(arguments.config_dir))
    with Console(stderr=True).status("checking the overrides") as shown:

        def said(done: int) -> None:
            shown.update(f"checked {done} jobs")

        if arguments.search is None:
            return plan_grid(wanted, said)
        return plan_search(
            wanted,
            said,
            sampler=arguments.search,
            trials=arguments.trials or 32,
            metric=arguments.metric,
            mode=arguments.mode,
            seed=arguments.search_seed or 0,
        )


def _say_what_would_run(planned: Planned, missing: Sequence[int]) -> None:
    print("would run:")
    for index in missing:
        print(f"  {index}  {planned.sweep.element(index).name}")
    print("add --local to run them here (--jobs 2: two at a time), or --slurm to submit them as one array")


def _search_options(arguments: argparse.Namespace) -> str:
    options = ("trials", "metric", "mode", "search_seed")
    return ", ".join(f"--{name.replace('_', '-')}" for name in options if vars(arguments)[name] is not None)


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The sweep's own arguments, and what stands after ``--``."""
    cut = list(argv).index("--") if "--" in argv else len(argv)
    return list(argv[:cut]), list(argv[cut + 1 :])


def _command(argv: Sequence[str]) -> str:
    return shlex.join(["python", "-m", "mmtrain", "sweep", *argv])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m mmtrain sweep",
        usage="%(prog)s OVERRIDES [options] [-- SBATCH OPTIONS] | run SWEEP_DIR INDEX | status SWEEP_DIR",
        description="Plans a run for each combination of values, and runs or submits those that are missing or failed.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("overrides", nargs="+", metavar="OVERRIDE", help="seed=1,2,3 'optim.lr=1e-4,3e-4'")
    parser.add_argument("--name", help="of the sweep: its directory is sweeps/NAME (the experiment's name)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--local", action="store_true", help="run here, each job in a process of its own")
    where.add_argument("--slurm", action="store_true", help="submit one array")
    parser.add_argument("--jobs", type=_positive, metavar="N", help="jobs at a time (--local: 1; --slurm: no limit)")
    parser.add_argument("--script", type=Path, metavar="FILE", help="batch script (slurm/array.sbatch)")
    parser.add_argument("--search", choices=("tpe", "random"), help="draw the values, instead of every combination")
    parser.add_argument("--trials", type=_positive, metavar="N", help="jobs of a search (32)")
    parser.add_argument("--metric", metavar="NAME", help="what it optimises (callback.checkpoint.monitor)")
    parser.add_argument("--mode", choices=("max", "min"), help="its direction (callback.checkpoint.mode, else max)")
    parser.add_argument("--search-seed", type=int, metavar="N", help="of what a search draws (0)")
    parser.add_argument(
        "--config-dir", type=Path, action="append", default=[], help="your own configs; may be repeated"
    )
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return number
