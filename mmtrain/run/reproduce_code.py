"""The code of a commit, in a folder of its own for as long as it is needed."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from mmtrain.errors import RunError
from mmtrain.run.code_state import Repository
from mmtrain.run.evidence import Evidence
from mmtrain.run.git_state import GitError, find_work_tree, git

_CHECKOUT_SECONDS = 600


@dataclass(frozen=True)
class Checkout:
    """The code of a commit.

    Attributes:
        place: Folder of the package, to be put on Python's path.
        commit: Full hash.
        applied: Whether the uncommitted work of the run was added.
        notes: What else of that work there was, and why it is not here.
    """

    place: Path
    commit: str
    applied: bool
    notes: list[str]


@contextmanager
def checked_out(commit: str, run: Evidence, package: Path) -> Iterator[Checkout]:
    """Checks a commit of mmtrain out as a work tree in a temporary folder, which is removed afterwards.

    Where it is the commit of the run, the uncommitted work of then is added from the run's patch.

    Args:
        commit: Anything that git takes for one.
        run: The run.
        package: Folder of mmtrain's package, in the work tree whose repository has the commit.

    Raises:
        RunError: mmtrain is not in a repository, or the repository has no such commit, or no mmtrain in it.
    """
    try:
        root = find_work_tree(package)
        if root is None:
            version = run.manifest.mmtrain if run.manifest else "of then"
            raise RunError(
                "--at needs mmtrain's repository, and this mmtrain is outside git",
                where=str(package),
                mend=f"run it from a clone, or install the version of then and leave --at out: mmtrain=={version}",
            )
        full = git(root, "rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}").decode().strip()
    except GitError as error:
        mend = f"git -C {package} fetch, or name another: git log --oneline"
        raise RunError(f"the repository has no commit {commit!r}", where=str(package), mend=mend) from error
    folder = Path(tempfile.mkdtemp(prefix="mmtrain-"))
    tree = folder / "code"
    try:
        try:
            git(root, "worktree", "add", "--quiet", "--detach", str(tree), full, seconds=_CHECKOUT_SECONDS)
            place = tree / package.relative_to(root).parent
            if not (place / package.name / "__main__.py").is_file():
                mend = "name a later one: git log --oneline"
                raise RunError(f"commit {full[:12]} has no mmtrain", where=str(root), mend=mend)
            applied, notes = _apply(tree, full, run)
        except GitError as error:
            raise RunError(f"commit {full[:12]} cannot be checked out: {error}", where=str(root)) from error
        yield Checkout(place, full, applied, notes)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(GitError):
            git(root, "worktree", "prune")


def _apply(tree: Path, commit: str, run: Evidence) -> tuple[bool, list[str]]:
    """Adds the uncommitted work of the run, if the commit is its own."""
    known = run.code.repositories.get("mmtrain") if run.code else None
    if known is None or known.git is None or known.git.commit != commit or not known.git.dirty:
        return False, []
    notes = [f"the uncommitted {name} is not here: {why}" for name, why in known.git.omitted.items()]
    if known.patch is None:
        return False, [*notes, *([f"the uncommitted work is not here: {known.problem}"] if known.problem else [])]
    path = run.path.resolve() / Path(known.patch).name
    if (reason := _why_unusable(path, known)) is not None:
        return False, [*notes, f"the uncommitted work is not here: {path} {reason}"]
    git(tree, "apply", "--whitespace=nowarn", str(path))
    return True, notes


def _why_unusable(path: Path, known: Repository) -> str | None:
    try:
        same = hashlib.sha256(path.read_bytes()).hexdigest() == known.patch_sha256
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None if same else "was changed since"
