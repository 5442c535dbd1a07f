"""The code of a run: sources, commits and patches of mmtrain, of the user's packages and of config directories."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from git_repository import git, repository

import mmtrain
from mmtrain.run.code_state import CodeState, Repository, read_code_state, write_patches
from mmtrain.run.git_state import GitState
from mmtrain.run.source_tree import source_tree

STATE = CodeState("1", repositories={"mmtrain": Repository(GitState("/x", "c", "b", None, True))})


def test_a_package_of_the_users_is_recorded_with_the_repository_that_it_stands_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = repository(tmp_path / "mine")
    for name in ("conf/experiment", "mypackage"):
        (root / name).mkdir(parents=True)
    (root / "mypackage" / "__init__.py").write_text("x = 1\n")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message=package")
    (root / "conf" / "experiment" / "a.yaml").write_text("a: 1\n")
    monkeypatch.syspath_prepend(str(root))
    state, patches = read_code_state({"model": {"_target_": "mypackage.X"}}, [root / "conf"])
    assert state.packages["mypackage"] == source_tree(root / "mypackage")
    assert (
        state.packages["mmtrain"].files["__main__.py"]
        == hashlib.sha256(Path(mmtrain.__file__).with_name("__main__.py").read_bytes()).hexdigest()
    )
    known = state.repositories["mypackage"]
    assert known.git is not None and known.git.commit == git(root, "rev-parse", "HEAD") and known.git.dirty
    assert b"+a: 1" in patches["mypackage"]
    assert "config-conf" not in state.repositories, "it stands in the same repository"


def test_a_directory_of_configs_has_a_repository_of_its_own(tmp_path: Path) -> None:
    root = repository(tmp_path / "experiments", a__yaml="a: 1\n")
    state, patches = read_code_state({}, [root])
    assert state.repositories["config-experiments"].git is not None
    assert "config-experiments" not in patches
    assert "config-x" not in read_code_state({}, [tmp_path / "x"])[0].repositories


def test_a_changed_source_changes_the_hash_of_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "single.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    config = {"model": {"_target_": "single.X"}}
    before = read_code_state(config, [])[0]
    assert read_code_state(config, [])[0].sha256 == before.sha256
    (tmp_path / "single.py").write_text("x = 2\n")
    assert read_code_state(config, [])[0].sha256 != before.sha256


def test_a_repository_that_git_cannot_read_is_a_problem_and_stops_nothing(tmp_path: Path) -> None:
    root = repository(tmp_path / "broken")
    (root / ".git" / "config").write_text("[broken\n")
    state, _ = read_code_state({}, [root])
    assert state.repositories["config-broken"].git is None
    assert "bad config" in state.problems["config-broken"]


def test_patches_lie_beside_those_of_earlier_segments_and_take_no_place_of_theirs(tmp_path: Path) -> None:
    first = write_patches(STATE, {"mmtrain": b"one"}, tmp_path).repositories["mmtrain"]
    again = write_patches(STATE, {"mmtrain": b"one"}, tmp_path).repositories["mmtrain"]
    assert first == again
    assert (first.patch, first.patch_sha256) == ("diff.patch", hashlib.sha256(b"one").hexdigest())
    second = write_patches(STATE, {"mmtrain": b"two"}, tmp_path).repositories["mmtrain"]
    assert second.patch == f"diff-{hashlib.sha256(b'two').hexdigest()[:8]}.patch"
    other = replace(STATE, repositories={"mine": STATE.repositories["mmtrain"]})
    assert write_patches(other, {"mine": b"3"}, tmp_path).repositories["mine"].patch == "diff-mine.patch"
    assert {path.read_bytes() for path in tmp_path.glob("*.patch")} == {b"one", b"two", b"3"}


def test_a_patch_that_cannot_be_written_is_a_problem_and_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "diff.patch").mkdir()
    state = write_patches(STATE, {"mmtrain": b"one"}, tmp_path)
    assert state.repositories["mmtrain"].patch is None
    assert "diff.patch was not written: Is a directory" in state.problems["mmtrain"]
