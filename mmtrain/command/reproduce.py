"""``python -m mmtrain reproduce RUN``: run a run again, and say whether every step is the same."""

from __future__ import annotations

import argparse
import os
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import yaml
from rich.text import Text

import mmtrain
from mmtrain import distributed
from mmtrain.command.diff import plain_console, trees_of
from mmtrain.command.interrupt import terminated_as_interrupted
from mmtrain.command.train import train_composed
from mmtrain.config import Composed, validate
from mmtrain.errors import RunError
from mmtrain.run.compare import Difference, Pair
from mmtrain.run.origin import read_origin
from mmtrain.run.reproduce import RECEIPT, Outcome, new_directory, reproduce
from mmtrain.run.reproduce_code import checked_out
from mmtrain.run.reproduce_plan import Plan, plan_reproduction
from mmtrain.run.reproduce_rows import Deviation

_TOLD_SECONDS = 10.0
_MOST_VALUES = 12
_HARDWARE = frozenset({"ranks", "cpu", "cpu_instructions", "cuda", "cudnn", "driver", "nccl"})


def reproduce_run(argv: list[str]) -> int:
    """Runs a run again in a new directory and compares each recorded step; 0 only if all are equal.

    Raises:
        UserError: There is no such run, it cannot be run again, or its code cannot be checked out.
    """
    arguments = _parser().parse_intermixed_args(argv)
    if arguments.rerun is not None:
        _rerun(arguments.rerun)
        return 0
    if arguments.run is None:
        raise RunError("no run is named", where="the command line", mend="python -m mmtrain reproduce runs/clip_emoji")
    if distributed.started_by_srun() or "RANK" in os.environ:
        mend = "start it once, without srun or torchrun: it starts the ranks itself"
        raise RunError("several processes would each run the run again", where="the launcher", mend=mend)
    out = new_directory(arguments.run, arguments.out)
    exact = arguments.tolerance is None
    plan = plan_reproduction(arguments.run, out, arguments.steps, arguments.overrides, exact=exact)
    with ExitStack() as stack:
        stack.enter_context(terminated_as_interrupted())
        checkout = None
        if arguments.at is not None:
            checkout = stack.enter_context(checked_out(arguments.at, plan.then, Path(mmtrain.__file__).parent))
            plan = replace(plan, notes=[*plan.notes, *checkout.notes])
        _announce(plan, out, arguments.tolerance)
        if checkout is not None:
            patched = " with the uncommitted work of then" if checkout.applied else ""
            plain_console().print(f"code of commit {checkout.commit}{patched}")
        outcome = reproduce(plan, out, arguments.tolerance, checkout, _Told(plan.steps))
    _print(plan, out, outcome, arguments.tolerance, at=arguments.at)
    return 0 if outcome.equal else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m mmtrain reproduce",
        description="Runs a run again from its manifest, in a new directory, and compares every recorded step as it"
        " comes. Stops at the first difference and says what differs between then and now. The exit status is 0 only if"
        " all is equal.",
    )
    parser.add_argument("run", type=Path, nargs="?", metavar="RUN", help="run directory")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="where and how fast it goes: data.root=DIR trainer.devices=2"
    )
    parser.add_argument("--steps", type=_positive, metavar="N", help="compare the first N steps (default: all)")
    parser.add_argument("--at", metavar="COMMIT", help="run the code of this commit (default: this very code)")
    parser.add_argument(
        "--tolerance", type=_tolerance, metavar="X", help="how far a value may be from the recorded one, as a share of "
        "that, or in its own unit where that is below 1, for other hardware (default: not a bit)",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="DIR", help="the new directory (RUN-reproduced)")
    parser.add_argument("--rerun", type=Path, help=argparse.SUPPRESS)  # what the processes that train are started with
    return parser


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def _tolerance(text: str) -> float:
    if not 0 < (value := float(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def _rerun(directory: Path) -> None:
    """Trains the config that lies in a directory, in that directory."""
    config = yaml.safe_load((directory / "config.yaml").read_text(encoding="utf-8"))
    origin = read_origin(directory)
    composed = Composed(config, {}, origin.overrides, {})
    validate(composed)
    train_composed(composed, origin)


class _Told:
    """Prints how far it is, not too often."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._told_at = time.monotonic()

    def __call__(self, step: int) -> None:
        if time.monotonic() - self._told_at > _TOLD_SECONDS:
            plain_console().print(f"the same up to step {step} of {self._steps}")
            self._told_at = time.monotonic()


def _announce(plan: Plan, out: Path, tolerance: float | None) -> None:
    console = plain_console()
    listed = plan.then.listed
    how = "bit by bit" if tolerance is None else f"within {tolerance:g}"
    console.print(f"then  {plan.then.path}: {listed.state}, step {listed.step} of {listed.total_steps}")
    console.print(f"now   {out}: up to step {plan.steps}, compared {how}")
    for note in [*plan.notes, *plan.then.problems]:
        console.print(Text(f"note: {note}", "yellow"))


def _print(plan: Plan, out: Path, outcome: Outcome, tolerance: float | None, *, at: str | None) -> None:
    console = plain_console()
    if outcome.deviation is not None:
        _print_deviation(outcome.deviation)
    if outcome.failure is not None:
        console.print(Text(f"the new run failed after {outcome.steps} recorded steps that were the same:", "bold red"))
        console.print(Text(outcome.failure))
    if outcome.other_data:
        console.print(Text("the data are not those of then", "bold red"))
    told = outcome.difference is not None and _print_difference(plan, outcome.difference, equal=outcome.equal)
    counted = f"{outcome.steps} recorded steps, {outcome.values} values"
    if outcome.equal:
        within = f", within {tolerance:g}: the largest deviation is {outcome.largest:.2g}" if tolerance else ""
        weights = {True: "; the same weights at the end", False: "; other weights at the end", None: ""}
        console.print(Text(f"equal: {counted}{within}{weights[outcome.weights]}", "bold green"))
    else:
        if outcome.weights is False:
            console.print(Text("the weights of the end differ, although every recorded value is the same", "bold red"))
        if outcome.difference is not None and not told:
            console.print("config, code, packages, machine and data are the same then and now, as far as is recorded")
        _print_mends(plan, outcome, at)
        console.print(Text(f"not equal: {counted} were the same before", "bold red"))
    console.print(f"receipt {out / RECEIPT}")


def _print_deviation(deviation: Deviation) -> None:
    console = plain_console()
    console.print(Text(f"step {deviation.step} differs:", "bold red"))
    for name, pair in list(deviation.values.items())[:_MOST_VALUES]:
        then, now = (repr(pair[side]) if side in pair else "(absent)" for side in ("a", "b"))
        distance = f"  ({pair['b'] - pair['a']:+.3g})" if len(pair) == 2 else ""
        console.print(Text.assemble(f"  {name}: ", (then, "red"), " then, ", (now, "green"), f" now{distance}"))
    if len(deviation.values) > _MOST_VALUES:
        console.print(f"  ... and {len(deviation.values) - _MOST_VALUES} values more")


def _print_difference(plan: Plan, found: Difference, *, equal: bool) -> bool:
    """Prints what differs between then and now; returns whether anything does."""
    config: dict[str, Pair] = {key: pair for key, pair in found.config.items() if not plan.is_own(key)}
    patches = {} if equal else found.patches
    trees = [tree for tree in trees_of(replace(found, config=config, patches=patches)).values() if tree.children]
    console = plain_console()
    if trees:
        console.print(Text("what differs, then -> now" + (", and made no difference" if equal else ""), "bold"))
    for tree in trees:
        console.print(tree)
    for note in found.notes:
        console.print(Text(f"note: {note}", "yellow"))
    return bool(trees)


def _print_mends(plan: Plan, outcome: Outcome, at: str | None) -> None:
    console, run = plain_console(), plan.then.path
    found, commit = outcome.difference, plan.segment.commit
    other_code = found is None or bool(found.files)
    if other_code and commit is not None and at is None:
        console.print(f"mend: with the code of then: python -m mmtrain reproduce {run} --at {commit[:12]}")
    if other_code and commit is None:
        console.print("note: the commit of then is not known, since the code lay outside git")
    if outcome.failure is not None and any(word in outcome.failure for word in ("data set", "shard")):
        console.print(f"mend: where the data lie elsewhere by now: python -m mmtrain reproduce {run} data.root=DIR")
    if found is not None and found.machine.keys() & _HARDWARE and outcome.deviation is not None:
        console.print(f"mend: on other hardware: python -m mmtrain reproduce {run} --tolerance 1e-3")
