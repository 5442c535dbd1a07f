"""The source code that a run was made of: one hash a file, and one of them all."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SUFFIXES = frozenset({".py", ".pyi", ".pyx", ".c", ".cc", ".cpp", ".cu", ".cuh", ".h", ".hpp"})
"""Files that can change what a run computes; its config is recorded by value."""

_LIBRARIES = frozenset({"torch", "lightning"})
_MOST_FILES = 5000


@dataclass(frozen=True)
class SourceTree:
    """The source files of a package.

    Attributes:
        files: sha256 by path below the package, with slashes.
        sha256: One hash of ``files``.
        problem: Why files are missing here; empty where none are.
    """

    files: dict[str, str]
    sha256: str
    problem: str = ""


def source_tree(package: Path) -> SourceTree:
    """Hashes the source files below a folder, or a module that is one file. Links to folders are not followed."""
    files: dict[str, str] = {}
    problems = []
    for path in _sources(package):
        if len(files) == _MOST_FILES:
            problems.append(f"only the first {_MOST_FILES} files were hashed")
            break
        name = path.relative_to(package).as_posix() if path != package else path.name
        try:
            files[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            problems.append(f"{name}: {error.strerror}")
    return SourceTree(files, json_sha256(files), "; ".join(problems))


def packages_of(config: Mapping[str, Any]) -> dict[str, Path]:
    """The packages that the ``_target_``s of a config come from, mmtrain first, libraries left out.

    Returns:
        Folder of each package, or its file, by name.
    """
    names = ["mmtrain", *sorted(set(_targets(config)) - _LIBRARIES - {"mmtrain"})]
    return {name: place for name in names if (place := _place(name)) is not None}


def json_sha256(value: object) -> str:
    """sha256 of a value's JSON with sorted keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _sources(package: Path) -> Iterator[Path]:
    if package.is_file():
        yield package
    for folder, folders, names in os.walk(package):
        folders[:] = sorted(name for name in folders if name != "__pycache__" and not name.startswith("."))
        yield from (Path(folder, name) for name in sorted(names) if Path(name).suffix in SUFFIXES)


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        if isinstance(target := node.get("_target_"), str):
            yield target.partition(".")[0]
        for child in node.values():
            yield from _targets(child)
    elif isinstance(node, list):
        for child in node:
            yield from _targets(child)


def _place(name: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None:
        return None
    origin = Path(spec.origin).resolve()
    return origin.parent if spec.submodule_search_locations else origin
