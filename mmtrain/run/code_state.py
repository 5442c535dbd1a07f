"""The code of a run: hashes of its source files, commits of the work trees they stand in, patches of what was not."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmtrain.callback.checkpoint_io import write_atomically
from mmtrain.run.git_state import GitError, GitState, find_work_tree, read_git
from mmtrain.run.source_tree import SourceTree, json_sha256, packages_of, source_tree


@dataclass(frozen=True)
class Repository:
    """A work tree that code of the run stands in.

    Attributes:
        git: What git knows of it; None where git could not tell.
        patch: File in the run directory with what was not committed; None where there is nothing.
        patch_sha256: Hash of this file.
        problem: Why ``git``, or the patch, is missing; empty where it is not.
    """

    git: GitState | None
    patch: str | None = None
    patch_sha256: str | None = None
    problem: str = ""


@dataclass(frozen=True)
class CodeState:
    """All code of a run but that of installed libraries.

    Attributes:
        version: Version of mmtrain.
        packages: Source files of mmtrain and of the packages that the config names, by package.
        repositories: The work trees of the packages and of the config directories, by the first of them.
    """

    version: str
    packages: dict[str, SourceTree] = field(default_factory=dict)
    repositories: dict[str, Repository] = field(default_factory=dict)

    @property
    def sha256(self) -> str:
        """One hash of all source files."""
        return json_sha256({name: tree.sha256 for name, tree in self.packages.items()})

    @property
    def problems(self) -> dict[str, str]:
        """What could not be read or written, by the name of the package or the repository."""
        of_files = {name: tree.problem for name, tree in self.packages.items()}
        of_git = {name: repository.problem for name, repository in self.repositories.items() if repository.problem}
        return {name: problem for name, problem in (of_files | of_git).items() if problem}


def read_code_state(config: Mapping[str, Any], config_dirs: Sequence[Path]) -> tuple[CodeState, dict[str, bytes]]:
    """The code that a config is run by.

    Args:
        config: The resolved config.
        config_dirs: Directories of the user's own configs.

    Returns:
        The state, and the patch of each repository that has uncommitted work.
    """
    places = packages_of(config)
    packages = {name: source_tree(place) for name, place in places.items()}
    repositories: dict[str, Repository] = {}
    patches: dict[str, bytes] = {}
    seen: set[Path] = set()
    for name, place in [*places.items(), *((f"config-{path.name}", path) for path in config_dirs)]:
        try:
            root = find_work_tree(place)
            if root is None or root in seen:
                continue
            seen.add(root)
            state, patch = read_git(root)
        except GitError as error:
            repositories[name] = Repository(None, problem=str(error))
            continue
        repositories[name] = Repository(state)
        if patch:
            patches[name] = patch
    return CodeState(_version(), packages, repositories), patches


def write_patches(state: CodeState, patches: Mapping[str, bytes], run: Path) -> CodeState:
    """Writes the patches into a run directory, and returns the state with their names.

    mmtrain's is ``diff.patch``, another's ``diff-NAME.patch``. An earlier segment's of other content stays: the new one
    bears the beginning of its hash, too. One that cannot be written is a problem of its repository.
    """
    written = dict(state.repositories)
    for name, patch in patches.items():
        digest = hashlib.sha256(patch).hexdigest()
        stem = "diff" if name == "mmtrain" else f"diff-{name}"
        path = run / f"{stem}.patch"
        try:
            if path.exists() and path.read_bytes() != patch:
                path = run / f"{stem}-{digest[:8]}.patch"
            _write(path, patch)
        except OSError as error:
            written[name] = replace(written[name], problem=f"{path} was not written: {error.strerror}")
        else:
            written[name] = replace(written[name], patch=path.name, patch_sha256=digest)
    return replace(state, repositories=written)


def _write(path: Path, content: bytes) -> None:
    write_atomically(path, lambda file: file.write(content))


def _version() -> str:
    try:
        return importlib.metadata.version("mmtrain")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
