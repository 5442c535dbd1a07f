"""The runs that a report is asked for: those that lie there, and those that a sweep planned and nobody began."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmtrain.config.override import parse_override
from mmtrain.config.secret import masked
from mmtrain.errors import RunError
from mmtrain.run.dotted import has, set_value, value_at
from mmtrain.run.evidence import Evidence, gather
from mmtrain.run.listing import ListedRun, list_runs
from mmtrain.run.origin import read_origin
from mmtrain.run.sweep.plan import Element, Sweep
from mmtrain.run.sweep.search import drawn
from mmtrain.run.sweep.state import State, status


@dataclass(frozen=True)
class Case:
    """A run that a report is asked for.

    Attributes:
        path: Its directory, which does not exist where it was only planned.
        state: See `mmtrain.run.state.RunState`; ``waiting`` of one that nobody began.
        note: Why it failed, or how far it is; empty where there is nothing to say.
        config: Nested, without secrets; of a run that was not begun, what its plan says.
        picks: Overrides by key, the last of each: what a group such as ``model`` was set to.
        evidence: All that is known of the run; None where it was not begun.
        problems: What could not be read of it.
    """

    path: Path
    state: str
    note: str
    config: Mapping[str, Any]
    picks: Mapping[str, Any]
    evidence: Evidence | None
    problems: tuple[str, ...] = ()

    @property
    def done(self) -> bool:
        """Whether it reached its last step: only then it counts."""
        return self.state == "done" and self.evidence is not None

    @property
    def told(self) -> str:
        """Its state as a report tells it."""
        return f"{self.state} ({self.note})" if self.note else self.state


@dataclass(frozen=True)
class Cases:
    """All runs of a report, and what is to be known of where they come from."""

    cases: tuple[Case, ...]
    notes: tuple[str, ...] = field(default=())


def find_cases(roots: Sequence[Path]) -> Cases:
    """The runs below some directories.

    Of a sweep, all that its plan asks for, and no other.

    Args:
        roots: Runs, directories of runs, sweeps, or directories of sweeps.

    Raises:
        RunError: A root is no directory, there is no run in it, or a plan is damaged.
    """
    found: dict[Path, Case] = {}
    notes: list[str] = []
    for root in roots:
        if not root.is_dir():
            raise RunError(
                "there is no such directory", where=str(root), mend="name runs or a sweep: sweeps/clip_emoji"
            )
        sweeps = _sweeps(root)
        before = len(found)
        for sweep in sweeps:
            for element in sweep.elements():
                case = _planned(sweep, element)
                found.setdefault(case.path.resolve(), case)
        for listed in list_runs([root]):
            if listed.path.resolve() in found:
                continue
            if any(listed.path.is_relative_to(sweep.path) for sweep in sweeps):
                notes.append(f"{listed.path} lies in a sweep and not in its plan: left out; name it to have it counted")
                continue
            found[listed.path.resolve()] = _listed(listed)
        if len(found) == before and not sweeps and not any(path.is_relative_to(root.resolve()) for path in found):
            raise RunError("there is no run", where=str(root), mend="name runs or a sweep: sweeps/clip_emoji")
    return Cases(tuple(found.values()), tuple(notes))


def _sweeps(root: Path) -> list[Sweep]:
    """The sweep of a directory, or those that lie in it."""
    if (sweep := Sweep(root)).plan.exists():
        return [sweep]
    return [sweep for path in sorted(root.iterdir()) if path.is_dir() and (sweep := Sweep(path)).plan.exists()]


def _planned(sweep: Sweep, element: Element) -> Case:
    run = sweep.run(element)
    found = status(sweep, element)
    if run.config.exists():
        evidence = gather(run.path)
        note = found.note if evidence.listed.state == "failed" else ""
        return _case(evidence, note, _picks([*element.overrides, *(drawn(sweep, element.index) or ())]))
    state = "failed" if found.state == State.FAILED else "waiting"
    note = found.note if found.state == State.FAILED else "not begun"
    return Case(run.path, state, note, masked(_planned_config(sweep, element)), _picks(element.overrides), None)


def _planned_config(sweep: Sweep, element: Element) -> dict[str, Any]:
    """The config that a job will have, as far as its plan tells without composing it: the first job's, with its values.

    Where a group varies, only the varied values are known.
    """
    values = _picks(element.varied)
    base = sweep.base_config()
    groups = [key for key in values if not has(base, key) or isinstance(value_at(base, key), Mapping | None)]
    config = {} if groups else base
    for key, value in values.items():
        set_value(config, key, value)
    return config


def _listed(listed: ListedRun) -> Case:
    try:
        evidence = gather(listed.path)
    except RunError as error:
        return Case(listed.path, listed.state, listed.reason or "", {}, {}, None, (error.message,))
    return _case(evidence, (listed.reason or "").partition("failed: ")[2], _picks(_overrides(evidence)))


def _case(evidence: Evidence, note: str, picks: Mapping[str, Any]) -> Case:
    listed = evidence.listed
    if not note and listed.state != "done" and listed.step is not None:
        total = "?" if listed.total_steps is None else listed.total_steps
        note = f"step {listed.step} of {total}"
    return Case(evidence.path, listed.state, note, evidence.config, picks, evidence, tuple(evidence.problems))


def _overrides(evidence: Evidence) -> Sequence[str]:
    if evidence.manifest is not None:
        return evidence.manifest.newest.overrides
    try:
        return read_origin(evidence.path).overrides
    except RunError:
        return ()


def _picks(lines: Sequence[str]) -> dict[str, Any]:
    return dict(_assignments(lines))


def _assignments(lines: Sequence[str]) -> Iterator[tuple[str, Any]]:
    for line in lines:
        override = parse_override(line)
        if not override.is_delete():
            yield override.key_or_group.replace("/", "."), override.value()
