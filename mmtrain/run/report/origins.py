"""What the runs of a report differ in: config, code, packages, machine and data, each value with its runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmtrain.run.directory import config_differences
from mmtrain.run.dotted import flatten
from mmtrain.run.evidence import Evidence
from mmtrain.run.report.cases import Case
from mmtrain.run.report.values import as_label

ABSENT = "(absent)"


@dataclass(frozen=True)
class Varied:
    """Something that the runs differ in.

    Attributes:
        name: A config key, a package, ...
        runs: By value, as text, the runs that have it.
    """

    name: str
    runs: Mapping[str, Sequence[str]]


def config_varied(cases: Sequence[Case]) -> list[Varied]:
    """Config keys that change the trajectory and differ, the seed among them."""
    begun = [case for case in cases if case.evidence is not None and case.config]
    if not begun:
        return []
    keys = {key for case in begun[1:] for key in config_differences(begun[0].config, case.config)} - {"name"}
    flat = {str(case.path): flatten(case.config) for case in begun}
    return [_varied(key, _labels(flat, key)) for key in sorted(keys)]


def origins_varied(cases: Sequence[Case]) -> dict[str, list[Varied]]:
    """Code, packages, machine and data that differ, of the runs that have a manifest."""
    runs = {str(case.path): case.evidence for case in cases if case.evidence is not None and case.evidence.manifest}
    parts: dict[str, Callable[[Evidence], Mapping[str, Any]]] = {
        "code": _code,
        "packages": lambda run: run.packages or {},
        "machine": _machine,
        "data": lambda run: run.data.fingerprints,
    }
    return {part: _differing({name: read(run) for name, run in runs.items()}) for part, read in parts.items()}


def origin_notes(cases: Sequence[Case]) -> list[str]:
    """In one line each, that runs of a table were not made by the same code, packages or data."""
    notes = []
    for part, varied in origins_varied(cases).items():
        if varied and part != "machine":
            names = [one.name for one in varied]
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            notes.append(f"the runs differ in {part}: {', '.join(names[:3])}{more}")
    return notes


def _differing(runs: Mapping[str, Mapping[str, Any]]) -> list[Varied]:
    names = dict.fromkeys(name for values in runs.values() for name in values)
    found = [_varied(name, _labels(runs, name)) for name in names]
    return [varied for varied in found if len(varied.runs) > 1]


def _labels(runs: Mapping[str, Mapping[str, Any]], name: str) -> dict[str, str]:
    return {run: as_label(values[name]) if name in values else ABSENT for run, values in runs.items()}


def _varied(name: str, values: Mapping[str, str]) -> Varied:
    runs: dict[str, list[str]] = {}
    for run, value in values.items():
        runs.setdefault(value, []).append(run)
    return Varied(name, runs)


def _code(run: Evidence) -> Mapping[str, Any]:
    if run.code is None:
        return {}
    found: dict[str, Any] = {"version of mmtrain": run.code.version}
    found |= {f"sources of {name}": tree.sha256[:12] for name, tree in run.code.packages.items()}
    for name, repository in run.code.repositories.items():
        if repository.git is not None:
            found[f"commit of {name}"] = (repository.git.commit or "none")[:12]
            found[f"uncommitted work in {name}"] = (repository.patch_sha256 or "none")[:12]
    return found


def _machine(run: Evidence) -> Mapping[str, Any]:
    if run.manifest is None or run.environment is None:
        return {}
    newest, environment = run.manifest.newest, run.environment
    found: dict[str, Any] = {"ranks": newest.world_size, "precision": newest.precision, "strategy": newest.strategy}
    devices = ", ".join(sorted({node.device for node in environment.nodes}))
    return found | {"cpu": environment.cpu, "torch": environment.torch, "devices": devices}
