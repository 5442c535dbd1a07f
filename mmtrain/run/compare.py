"""Two runs side by side: config, code, packages, machine, data and metrics, and only what differs."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmtrain.run.dotted import flatten
from mmtrain.run.evidence import Evidence
from mmtrain.run.git_state import patch_parts
from mmtrain.run.source_tree import SUFFIXES

Pair = dict[str, Any]
"""``{"a": VALUE, "b": VALUE}``; a side that has no such thing is left out."""

_LOSS = "train/loss"
_MISSING = object()
_OF_RANKS = ("ranks", "world_size", "strategy", "precision", "threads")


@dataclass(frozen=True)
class FirstDifference:
    """Where two records of the training loss part.

    Attributes:
        step: The first step whose losses differ in any bit; None where none does.
        losses: Of that step.
        compared: Steps that both recorded.
    """

    step: int | None
    losses: Pair
    compared: int


@dataclass(frozen=True)
class Difference:
    """What differs between two runs: of every mapping, the entries that do.

    Attributes:
        config: By dotted key.
        code: Version, commits, branches and hashes.
        files: Source files, by package and path: their sha256.
        patches: Unified diff from A's uncommitted work to B's, line by line, by repository; where the commit is one.
        packages: Versions.
        machine: Ranks, strategy, devices, versions, variables.
        data: Fingerprints by source.
        shards: sha256 of the shards, by source and name, where both runs recorded them.
        final: Last value of each metric, with their ``difference``, B less A.
        best: The same of the best evaluation.
        losses: The first step at which the training losses differ.
        notes: What could not be compared, and why.
    """

    config: dict[str, Pair]
    code: dict[str, Pair]
    files: dict[str, Pair]
    patches: dict[str, list[str]]
    packages: dict[str, Pair]
    machine: dict[str, Pair]
    data: dict[str, Pair]
    shards: dict[str, dict[str, Pair]]
    final: dict[str, Pair]
    best: dict[str, Pair]
    losses: FirstDifference
    notes: list[str] = field(default_factory=list)


def compare(a: Evidence, b: Evidence, names: tuple[str, str] = ("A", "B")) -> Difference:
    """Compares two runs by what each of them recorded.

    Args:
        a: One run.
        b: The other.
        names: What the notes call them.
    """
    runs = dict(zip(names, (a, b), strict=True))
    notes = [f"{name}: {problem}" for name, run in runs.items() for problem in run.problems]
    data = _pairs(a.data.fingerprints or None, b.data.fingerprints or None)
    return Difference(
        config=_pairs(flatten(a.config) or None, flatten(b.config) or None),
        code=_pairs(_code(a), _code(b)),
        files=_pairs(_files(a), _files(b)),
        patches=_patches(runs, notes),
        packages=_pairs(a.packages, b.packages),
        machine=_machines(a, b),
        data=data,
        shards=_shards(runs, [name for name, pair in data.items() if len(pair) == 2], notes),
        final=_metrics(_final(a), _final(b)),
        best=_metrics(_best(a), _best(b)),
        losses=first_difference(_losses(a), _losses(b)),
        notes=notes,
    )


def first_difference(a: Mapping[int, float], b: Mapping[int, float]) -> FirstDifference:
    """Where two series part, by step; NaN equals NaN."""
    steps = sorted(a.keys() & b.keys())
    for step in steps:
        if not _same(a[step], b[step]):
            return FirstDifference(step, {"a": a[step], "b": b[step]}, len(steps))
    return FirstDifference(None, {}, len(steps))


def _pairs(a: Mapping[str, Any] | None, b: Mapping[str, Any] | None) -> dict[str, Pair]:
    """Entries that differ; none where one side is not known at all."""
    if a is None or b is None:
        return {}
    found = {}
    for key in [*a, *(key for key in b if key not in a)]:
        pair = {"a": a.get(key, _MISSING), "b": b.get(key, _MISSING)}
        if not _same(pair["a"], pair["b"]):
            found[key] = {side: value for side, value in pair.items() if value is not _MISSING}
    return found


def _same(a: Any, b: Any) -> bool:
    both_nan = isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b)
    return both_nan or (a == b and isinstance(a, bool) == isinstance(b, bool))


def _metrics(a: Mapping[str, float], b: Mapping[str, float]) -> dict[str, Pair]:
    pairs = _pairs(a, b)
    for pair in pairs.values():
        if len(pair) == 2:
            pair["difference"] = pair["b"] - pair["a"]
    return pairs


def _code(run: Evidence) -> dict[str, Any] | None:
    if run.code is None:
        return None
    found: dict[str, Any] = {"version of mmtrain": run.code.version}
    found |= {f"sources of {name}": tree.sha256 for name, tree in run.code.packages.items()}
    for name, repository in run.code.repositories.items():
        if repository.git is None:
            found[f"git of {name}"] = repository.problem
            continue
        git = repository.git
        found |= {f"commit of {name}": git.commit, f"branch of {name}": git.branch, f"remote of {name}": git.remote}
        found[f"uncommitted work in {name}"] = git.dirty
        found[f"patch of {name}"] = repository.patch_sha256
    return found


def _files(run: Evidence) -> dict[str, str] | None:
    if run.code is None:
        return None
    return {f"{name}/{path}": digest for name, tree in run.code.packages.items() for path, digest in tree.files.items()}


def _patches(runs: Mapping[str, Evidence], notes: list[str]) -> dict[str, list[str]]:
    found = {}
    for name in sorted({name for run in runs.values() if run.code for name in run.code.repositories}):
        patches = {side: run.patch(name) for side, run in runs.items()}
        one, other = patches.values()
        if one is None or other is None:
            missing = " and ".join(side for side, patch in patches.items() if patch is None)
            notes.append(f"{missing}: the uncommitted work in {name} is not known")
        elif one != other and len({_commit(run, name) for run in runs.values()}) > 1:
            notes.append(f"the uncommitted work in {name} is that of two commits, and is not compared line by line")
        elif one != other:
            found[name] = _patch_lines(one, other)
    return found


def _patch_lines(one: str, other: str) -> list[str]:
    """What differs between two patches of one commit, file by file, source code first."""
    a, b = patch_parts(one), patch_parts(other)
    names = [name for name in sorted(a.keys() | b.keys()) if a.get(name) != b.get(name)]
    lines = []
    for name in sorted(names, key=lambda name: Path(name).suffix not in SUFFIXES):
        lines.append(f"{name}:")
        sides = (a.get(name, "").splitlines(), b.get(name, "").splitlines())
        lines += list(difflib.unified_diff(*sides, lineterm="", n=1))[2:]
    return lines


def _commit(run: Evidence, repository: str) -> str | None:
    known = run.code.repositories.get(repository) if run.code else None
    return known.git.commit if known and known.git else None


def _machines(a: Evidence, b: Evidence) -> dict[str, Pair]:
    """Machines and ranks; what is known of the ranks once they have met is compared where it is known of both."""
    if None in (a.manifest, b.manifest, a.environment, b.environment):
        return {}
    pairs = _pairs(_machine(a), _machine(b))
    unknown = {name for name in _OF_RANKS for run in (a, b) if _ranks(run)[name] in (None, "")}
    return {name: pair for name, pair in (_pairs(_ranks(a), _ranks(b)) | pairs).items() if name not in unknown}


def _ranks(run: Evidence) -> dict[str, Any]:
    assert run.manifest is not None and run.environment is not None, "they are compared where there are some"
    nodes = ", ".join(f"{node.ranks} x {node.device} on {node.host}" for node in run.environment.nodes)
    return {"ranks": nodes} | {name: getattr(run.manifest.newest, name) for name in _OF_RANKS[1:]}


def _machine(run: Evidence) -> dict[str, Any]:
    assert run.environment is not None, "they are compared where there are some"
    versions = ("python", "torch", "cuda", "cudnn", "nccl", "driver", "host", "os")
    hardware = ("cpu", "cpu_instructions", "cores", "cores_allowed", "memory_bytes")
    machine = {name: getattr(run.environment, name) for name in (*versions, *hardware, "launcher")}
    return machine | run.environment.variables


def _shards(runs: Mapping[str, Evidence], sources: list[str], notes: list[str]) -> dict[str, dict[str, Pair]]:
    """Shard by shard, the sources that differ."""
    found = {}
    for name in sources:
        sides = {side: run.manifest.shards.get(name) if run.manifest else None for side, run in runs.items()}
        if name != "tokenizer":
            notes += [f"{side}: the shards of {name} were not recorded" for side, one in sides.items() if one is None]
            found[name] = _pairs(*sides.values())
    return {name: pairs for name, pairs in found.items() if pairs}


def _final(run: Evidence) -> dict[str, float]:
    final: dict[str, float] = {}
    for row in run.rows:
        final |= {name: value for name, value in row.items() if name.startswith(("eval/", "train/", "throughput/"))}
    return final


def _best(run: Evidence) -> dict[str, float]:
    return run.listed.best_metrics


def _losses(run: Evidence) -> dict[int, float]:
    return {row["step"]: row[_LOSS] for row in run.rows if _LOSS in row}
