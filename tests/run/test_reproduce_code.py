"""The code of a commit is checked out beside the repository, with the uncommitted work of the run, and goes again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from git_repository import git, repository
from recorded_runs import CODE, MANIFEST, write_recorded

from mmtrain.errors import RunError
from mmtrain.run.code_state import Repository, write_patches
from mmtrain.run.evidence import Evidence, gather
from mmtrain.run.git_state import read_git
from mmtrain.run.reproduce_code import checked_out


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A repository whose package lies in ``src``, with two commits and uncommitted work."""
    root = repository(tmp_path / "repo", readme__md="x\n")
    package = root / "src" / "pack"
    package.mkdir(parents=True)
    for content in ("first = 1\n", "second = 2\n"):
        (package / "__main__.py").write_text(content)
        git(root, "add", "--all")
        git(root, "commit", "--quiet", "--message", content)
    (package / "__main__.py").write_text("third = 3\n")
    (package / "new.py").write_text("new = 1\n")
    return package


@pytest.fixture
def run(package: Path, tmp_path: Path) -> Evidence:
    """A run of that work."""
    state, patch = read_git(package.parents[1])
    path = write_recorded(tmp_path / "run")
    code = write_patches(replace(CODE, repositories={"mmtrain": Repository(state)}), {"mmtrain": patch}, path)
    return recorded_as(path, code.repositories["mmtrain"])


def recorded_as(path: Path, known: Repository) -> Evidence:
    manifest = replace(MANIFEST, code={"code0": replace(CODE, repositories={"mmtrain": known})})
    return replace(gather(path), manifest=manifest)


def left(package: Path) -> list[str]:
    return git(package, "worktree", "list").splitlines()[1:]


def test_the_commit_of_the_run_gets_its_uncommitted_work(package: Path, run: Evidence) -> None:
    with checked_out("main", run, package) as checkout:
        assert (checkout.applied, checkout.notes) == (True, [])
        assert checkout.commit == git(package, "rev-parse", "HEAD")
        assert (checkout.place / "pack" / "__main__.py").read_text() == "third = 3\n"
        assert (checkout.place / "pack" / "new.py").read_text() == "new = 1\n"
        assert len(left(package)) == 1
    assert not checkout.place.parents[1].exists()
    assert left(package) == [], "nor is anything left in the repository"
    assert git(package, "status", "--short").splitlines() == ["M __main__.py", "?? new.py"]


def test_another_commit_is_taken_as_it_is(package: Path, run: Evidence) -> None:
    with checked_out("HEAD~1", run, package) as checkout:
        assert not checkout.applied
        assert (checkout.place / "pack" / "__main__.py").read_text() == "first = 1\n"


def test_work_that_was_changed_lost_or_left_out_is_told(package: Path, run: Evidence) -> None:
    assert run.code is not None
    known = run.code.repositories["mmtrain"]
    assert known.git is not None
    (run.path / "diff.patch").write_text("x")
    with checked_out("HEAD", run, package) as checkout:
        assert not checkout.applied and "diff.patch was changed since" in checkout.notes[0]
    (run.path / "diff.patch").unlink()
    with checked_out("HEAD", run, package) as checkout:
        assert "cannot be read: No such file" in checkout.notes[0]
    big = replace(known, git=replace(known.git, omitted={"big.py": "9 bytes"}), patch=None, problem="disk full")
    with checked_out("HEAD", recorded_as(run.path, big), package) as checkout:
        assert checkout.notes == [
            "the uncommitted big.py is not here: 9 bytes",
            "the uncommitted work is not here: disk full",
        ]


def test_an_error_inside_clears_the_checkout_away(package: Path, run: Evidence) -> None:
    with pytest.raises(KeyboardInterrupt), checked_out("HEAD", run, package) as checkout:
        raise KeyboardInterrupt
    assert not checkout.place.exists() and left(package) == []


@pytest.mark.parametrize("commit", ["nothing", "--help", "HEAD:src", ""])
def test_what_is_no_commit_is_refused(package: Path, run: Evidence, commit: str) -> None:
    with pytest.raises(RunError, match="the repository has no commit"), checked_out(commit, run, package):
        pass


def test_a_commit_without_the_package_is_refused(package: Path, run: Evidence) -> None:
    with pytest.raises(RunError, match="has no mmtrain"), checked_out("HEAD~2", run, package):
        pass
    assert left(package) == []


def test_a_package_outside_git_is_told_which_version_to_install(tmp_path: Path, run: Evidence) -> None:
    (tmp_path / "site").mkdir()
    with pytest.raises(RunError, match="outside git") as caught, checked_out("HEAD", run, tmp_path / "site"):
        pass
    assert "mmtrain==0.1.0" in str(caught.value.mend)
