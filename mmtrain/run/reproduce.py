"""Runs a run again in a directory of its own, and compares what it records with what was recorded, as it comes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

import mmtrain
from mmtrain.callback.checkpoint_io import write_json
from mmtrain.errors import RunError
from mmtrain.logger.rows import Tail
from mmtrain.run.code_state import CodeState
from mmtrain.run.compare import Difference, compare
from mmtrain.run.evidence import Evidence, gather
from mmtrain.run.manifest import Manifest, read_manifest
from mmtrain.run.origin import write_origin
from mmtrain.run.reproduce_child import Child
from mmtrain.run.reproduce_code import Checkout
from mmtrain.run.reproduce_plan import Plan, as_overrides
from mmtrain.run.reproduce_rows import Deviation, RowComparison
from mmtrain.run.source_tree import source_tree

RECEIPT = "reproduction.json"
"""File in the new directory that says what was compared, and with what result."""

_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Outcome:
    """How a reproduction ended.

    Attributes:
        equal: Whether all that was to be compared is the same, or within the tolerance.
        steps: Recorded steps that were.
        values: Their values.
        largest: The largest deviation that was tolerated.
        deviation: The first step that differs; None where none does.
        weights: Whether the weights of the end have the same sha256; None where that is not known of both.
        other_data: Whether it ended since the data are not those of then.
        failure: What the new run said when it failed; None where it did not.
        difference: What else differs between then (A) and now (B): of the code alone where the new run left no
            manifest.
    """

    equal: bool
    steps: int
    values: int
    largest: float
    deviation: Deviation | None = None
    weights: bool | None = None
    other_data: bool = False
    failure: str | None = None
    difference: Difference | None = None


def new_directory(run: Path, out: Path | None) -> Path:
    """Where to run again: ``out``, or a name beside the run that is free.

    Raises:
        RunError: It lies in the run, or something lies there.
    """
    old = run.resolve()
    if out is None:
        out, number = old.with_name(f"{old.name}-reproduced"), 1
        while out.exists():
            number += 1
            out = old.with_name(f"{old.name}-reproduced.{number}")
        return out
    new = out.resolve()
    if new.is_relative_to(old):
        raise RunError("the new run would lie in the old one", where=str(out), mend="name another place: --out DIR")
    if new.exists() and (not new.is_dir() or any(new.iterdir())):
        raise RunError("there is something already", where=str(out), mend="name a place that is free: --out DIR")
    return new


def reproduce(
    plan: Plan, out: Path, tolerance: float | None, checkout: Checkout | None, told: Callable[[int], None]
) -> Outcome:
    """Runs a plan, and compares.

    Args:
        plan: What to run again.
        out: The new directory.
        tolerance: See `RowComparison`.
        checkout: The code to run; None for this very code.
        told: Called now and then with the last step that was the same.

    Raises:
        RunError: The new directory cannot be written.
    """
    comparison = RowComparison(plan.expected, tolerance, plan.open_end)
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "config.yaml").write_text(yaml.safe_dump(plan.config, sort_keys=False, allow_unicode=True))
        write_origin(out, replace(plan.origin, overrides=tuple(as_overrides(plan, out))))
        child = _start(plan, out, checkout)
    except OSError as error:
        mend = "name another place: --out DIR"
        raise RunError(f"the new run cannot be written: {error.strerror}", where=str(out), mend=mend) from error
    with child:
        outcome = _follow(plan, out, child, comparison, told, exact=tolerance is None)
    difference = _difference(plan.then, out, checkout)
    outcome = replace(outcome, difference=difference)
    write_json(out / RECEIPT, {"run": str(plan.then.path.resolve()), "steps_to_compare": plan.steps,
               "tolerance": tolerance, "at": checkout.commit if checkout else None, **_plain(outcome)})  # fmt: skip
    return outcome


def _start(plan: Plan, out: Path, checkout: Checkout | None) -> Child:
    variables = plan.then.environment.variables if plan.then.environment else {}
    output = out / "output.txt"
    if checkout is None:
        place = Path(mmtrain.__file__).parents[1]
        return Child(["reproduce", "--rerun", str(out)], place, plan.cwd, variables, output)
    # The code of then may know no `reproduce`.
    directories = [word for path in plan.origin.config_dirs for word in ("--config-dir", str(path))]
    return Child(["train", *as_overrides(plan, out), *directories], checkout.place, plan.cwd, variables, output)


def _follow(
    plan: Plan, out: Path, child: Child, comparison: RowComparison, told: Callable[[int], None], *, exact: bool
) -> Outcome:
    """Compares rows until one differs, all were seen, or none come any more."""

    def outcome(equal: bool, **more: Any) -> Outcome:
        return Outcome(equal, comparison.steps, comparison.values, comparison.largest, **more)

    tail = Tail(out / "metrics.jsonl")
    data_known = False
    while not comparison.is_complete:
        running = child.is_running
        if exact and not data_known and (manifest := _begun(out)) is not None:
            data_known = True
            if not _same_data(plan.then, manifest):
                return outcome(False, other_data=True)
        rows, _ = tail.read()
        for row in rows:
            if (deviation := comparison.take(row)) is not None:
                return outcome(False, deviation=deviation)
            told(row["step"])
        if not running and not comparison.is_complete:
            if child.wait() != 0:
                return outcome(False, failure=child.last_words())
            if (deviation := comparison.end()) is not None:
                return outcome(False, deviation=deviation)
        time.sleep(_POLL_SECONDS)
    if not plan.is_whole:
        return outcome(True)
    if child.wait() != 0:
        return outcome(False, failure=child.last_words())
    weights = _same_weights(plan.then, out)
    return outcome(weights is not False or not exact, weights=weights)


def _begun(out: Path) -> Manifest | None:
    """The manifest of the new run, once it has read its data."""
    try:
        manifest = read_manifest(out)
    except RunError:  # of other code
        return None
    return manifest if manifest is not None and manifest.newest.from_step is not None else None


def _same_data(then: Evidence, now: Manifest) -> bool:
    return not then.data.fingerprints or then.data.fingerprints == now.data.fingerprints


def _same_weights(then: Evidence, out: Path) -> bool | None:
    manifest = _begun(out)
    hashes = (then.manifest.weights_sha256 if then.manifest else None, manifest.weights_sha256 if manifest else None)
    return None if None in hashes else hashes[0] == hashes[1]


def _difference(then: Evidence, out: Path, checkout: Checkout | None) -> Difference:
    now = gather(out)
    if now.manifest is None:
        assert then.manifest is not None, "a run without a manifest is refused"
        tree = source_tree((checkout.place if checkout else Path(mmtrain.__file__).parents[1]) / "mmtrain")
        code = CodeState("", {"mmtrain": tree})
        recorded = CodeState("", {"mmtrain": then.code.packages["mmtrain"]} if then.code else {})
        key = then.manifest.newest.code
        now = replace(now, manifest=replace(then.manifest, code={key: code}), data=then.data, config=then.config)
        then = replace(then, manifest=replace(then.manifest, code={key: recorded}))
    # What the old run went through on its way is told before, and that the new one was stopped is no news.
    return compare(replace(then, problems=[]), replace(now, problems=[]), ("then", "now"))


def _plain(outcome: Outcome) -> dict[str, Any]:
    plain = asdict(outcome)
    if outcome.difference is not None:
        plain["difference"] = {
            key: plain["difference"][key] for key in ("config", "files", "packages", "machine", "data")
        }
    return plain
