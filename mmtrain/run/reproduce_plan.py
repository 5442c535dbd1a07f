"""What of a run can be run again, and by which config: from its manifest, before anything is started."""

from __future__ import annotations

import copy
import json
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmtrain.config.secret import MASK
from mmtrain.errors import RunError
from mmtrain.run.dotted import set_value, value_at
from mmtrain.run.evidence import Evidence, gather
from mmtrain.run.manifest import Manifest, Segment, read_manifest
from mmtrain.run.manifest_file import NAME
from mmtrain.run.origin import Origin, read_origin
from mmtrain.run.reproduce_config import PINNED, pins, read_overrides, stored_config
from mmtrain.run.reproduce_rows import by_step

_OWN = ("run.dir", "run.fresh", "callback.progress", "logger")
_OF_BITS = {"world_size": "ranks", "strategy": "strategy", "precision": "precision", "threads": "threads"}
_BATCH = "data.micro_batch_size"
_REPLACED = ("logger=", "logger.", "run.", "callback.progress")


@dataclass(frozen=True)
class Plan:
    """A run to be run again.

    Attributes:
        then: The run, as of the segment whose config and machine are taken.
        expected: The recorded metrics to compare with, by step.
        steps: The last of these steps.
        is_whole: Whether they are all steps of the run, to its end.
        open_end: Whether the record may have been cut off within the last of them.
        config: The config, with what depends on the machine set to what it was.
        origin: What it was composed from.
        changed: Keys that the user set.
        cwd: Folder that relative paths start from.
        notes: What is otherwise than then, and can be known now.
    """

    then: Evidence
    expected: dict[int, dict[str, float]]
    steps: int
    is_whole: bool
    open_end: bool
    config: dict[str, Any]
    origin: Origin
    changed: dict[str, Any]
    cwd: Path
    notes: list[str] = field(default_factory=list)

    @property
    def segment(self) -> Segment:
        """The segment whose config and machine are taken."""
        assert self.then.manifest is not None, "a run without a manifest is refused"
        return self.then.manifest.newest

    def is_own(self, key: str) -> bool:
        """Whether a key of the config is set by this very program, and so differs from then for no other reason."""
        names = (*_OWN, *PINNED, *self.changed)
        return any(key == name or key.startswith(f"{name}.") for name in names)


def plan_reproduction(path: Path, out: Path, steps: int | None, overrides: Sequence[str], *, exact: bool) -> Plan:
    """Reads a run, and says how to run it again.

    Args:
        path: Run directory.
        out: Directory of the new run.
        steps: How many steps to compare; None for all.
        overrides: ``KEY=VALUE`` of keys that change where and how fast a run goes, and not its trajectory.
        exact: Whether every bit is to be the same.

    Raises:
        RunError: There is no such run, or it cannot be run again: the message says what it lacks.
        ConfigError: An override would make it another run.
    """
    run = gather(path)
    manifest = read_manifest(path)
    if manifest is None:
        raise RunError(
            "the run has no manifest: nothing tells what it was made with",
            where=str(path / NAME),
            mend=f"restore it; or train again from config.yaml, and compare: python -m mmtrain diff {path} NEW",
        )
    expected = by_step(run.rows)
    last = _last_step(run, manifest, expected, steps)
    number = _segment(manifest, path, last, exact=exact)
    then = replace(run, manifest=manifest.as_of(number))
    assert then.manifest is not None, "it was replaced by one"
    stored = stored_config(then.manifest, path)
    changed = read_overrides(stored, overrides)
    given = pins(then, stored, changed)
    config = copy.deepcopy(stored)
    for key, value in {**given, **changed}.items():
        set_value(config, key, value)
    config["run"] = {"dir": str(out), "fresh": False}
    config["logger"] = {}
    if config["callback"].get("progress") is not None:
        config["callback"]["progress"] = None
    cwd = Path(then.manifest.newest.cwd)
    notes = []
    if then.manifest.newest.host != socket.gethostname():
        notes.append(f"the run was made on {then.manifest.newest.host}, and this is {socket.gethostname()}")
    if not cwd.is_dir():
        notes.append(f"it was started in {cwd}, which is not here: relative paths start from {Path.cwd()}")
        cwd = Path.cwd()
    is_done = run.listed.state == "done"
    return Plan(
        then=then,
        expected={step: values for step, values in expected.items() if step <= last},
        steps=last,
        is_whole=is_done and last == manifest.total_steps,
        open_end=not is_done and last == max(expected),
        config=config,
        origin=_origin(then.manifest, path),
        changed=changed,
        cwd=cwd,
        notes=notes,
    )


def _last_step(run: Evidence, manifest: Manifest, expected: Mapping[int, object], steps: int | None) -> int:
    """The last step to compare."""
    listed, where = run.listed, str(run.path)
    ended = listed.reason or listed.state
    if not expected:
        if listed.state == "running":
            raise RunError("the run has just begun: it has no step to compare with", where=where, mend="wait for it")
        raise RunError(
            f"the run ended before its first recorded step ({ended})",
            where=where,
            mend=f"there is nothing to compare with; see {run.path / 'log.txt'}, and train it: "
            f"python -m mmtrain resume {run.path}",
        )
    recorded = max(expected)
    if steps is not None and steps > recorded:
        raise RunError(f"the run recorded {recorded} steps, and {steps} are to be compared", where=where,
                       mend=f"--steps {recorded}")  # fmt: skip
    if steps is not None:
        reached = [step for step in expected if step <= steps]
        if not reached:
            mend = f"--steps {min(expected)}"
            raise RunError(f"the run recorded nothing up to step {steps}", where=where, mend=mend)
        return max(reached)
    if listed.state != "done":
        state = "is still running" if listed.state == "running" else f"did not finish ({ended})"
        first = "wait for it" if listed.state == "running" else f"finish it: python -m mmtrain resume {run.path}"
        raise RunError(
            f"the run {state}: it recorded {recorded} of {manifest.total_steps} steps",
            where=where,
            mend=f"{first}; or compare what there is: --steps {recorded}",
        )
    return recorded


def _segment(manifest: Manifest, path: Path, last: int, *, exact: bool) -> int:
    """The segment that made the first steps. Those that made later ones must have gone on with the same numerics."""
    trained: list[tuple[int, Segment]] = []
    redone_from = last
    for number, segment in reversed(list(enumerate(manifest.segments))):
        if segment.world_size is not None and segment.from_step is not None and segment.from_step < redone_from:
            trained.insert(0, (number, segment))
            redone_from = segment.from_step
    if not trained:
        mend = "its manifest was not written to its end; train it again"
        raise RunError("the manifest does not say how its steps were made", where=str(path / NAME), mend=mend)
    number, first = trained[0]
    for other, segment in trained[1:]:
        pairs = [(name, getattr(first, key), getattr(segment, key)) for key, name in _OF_BITS.items()]
        batches = [manifest.as_of(each).config.get("data", {}).get("micro_batch_size") for each in (number, other)]
        differing = [f"{name}: {old} -> {new}" for name, old, new in [*pairs, (_BATCH, *batches)] if old != new]
        if differing and exact:
            raise RunError(
                f"the run went on at step {segment.from_step} with {', '.join(differing)}: no run in one piece has the"
                " same bits",
                where=str(path / NAME),
                mend=f"compare what came before: --steps {segment.from_step}; or all of it with --tolerance 1e-3",
            )
    return number


def _origin(manifest: Manifest, path: Path) -> Origin:
    """What the run was composed from; from the manifest where origin.json is gone."""
    try:
        return read_origin(path)
    except RunError:
        return Origin(tuple(manifest.newest.overrides), ())


def as_overrides(plan: Plan, out: Path) -> list[str]:
    """What makes the command line of the run that of this plan, in Hydra's grammar."""
    assert plan.then.manifest is not None, "a run without a manifest is refused"
    recorded = plan.segment.overrides
    lines = list(plan.origin.overrides if any(MASK in line for line in recorded) else recorded)
    lines = [line for line in lines if not line.lstrip("+~").startswith(_REPLACED)]
    values = {key: value_at(plan.config, key) for key in PINNED} | plan.changed
    root = plan.config["data"].get("root")
    if isinstance(root, str):  # an environment variable may have named it
        values.setdefault("data.root", root)
    lines += [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    if "progress" in plan.config["callback"]:
        lines.append("callback.progress=null")
    return [*lines, "logger=none", f"run.dir={json.dumps(str(out), ensure_ascii=False)}", "run.fresh=false"]
