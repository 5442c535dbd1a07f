"""What git knows of the code, read from real repositories, whatever lies in them and whatever git says."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from git_repository import git, repository

from mmtrain.run import git_state
from mmtrain.run.git_state import FILE_LIMIT, GitError, find_work_tree, read_git, strip_url


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return repository(tmp_path / "tree", a__py="one\ntwo\n", b__py="b\n", c__bin="c\n", old__py="o\n")


def applied(tree: Path, patch: bytes, to: Path) -> dict[str, bytes]:
    """The files of a clone at the commit, with the patch applied by git itself."""
    git(to.parent, "clone", "--quiet", str(tree), str(to))
    (to.parent / "p.patch").write_bytes(patch)
    git(to, "apply", "--whitespace=nowarn", str(to.parent / "p.patch"))
    return {str(p.relative_to(to)): p.read_bytes() for p in to.rglob("*") if p.is_file() and ".git" not in p.parts}


def test_a_clean_tree_has_a_commit_a_branch_and_no_patch(tree: Path) -> None:
    state, patch = read_git(tree)
    assert (state.commit, state.branch, state.dirty, patch) == (git(tree, "rev-parse", "HEAD"), "main", False, b"")
    assert (state.root, state.remote, state.omitted) == (str(tree), None, {})


def test_the_patch_makes_the_work_tree_of_its_commit(tree: Path, tmp_path: Path) -> None:
    (tree / "a.py").write_text("one\n2\n")
    (tree / "b.py").write_text("staged\n")
    git(tree, "add", "b.py")
    (tree / "old.py").unlink()
    (tree / "new dir").mkdir()
    (tree / "new dir" / "neu é.py").write_text("x = 1")  # without a last newline
    (tree / "empty.py").touch()
    script = tree / "run.sh"
    script.write_text("#!/bin/sh\n\n")
    script.chmod(0o755)
    (tree / "notes.txt").write_text("not a source\n")
    state, patch = read_git(tree)
    assert state.dirty and state.omitted == {}
    assert "+++ b/new dir/neu é.py\t\n".encode() in patch, "as GNU's patch needs it, too"
    files = applied(tree, patch, tmp_path / "clone")
    expected = {
        str(p.relative_to(tree)): p.read_bytes() for p in tree.rglob("*") if p.is_file() and ".git" not in p.parts
    }
    del expected["notes.txt"]
    assert files == expected
    assert (tmp_path / "clone" / "run.sh").stat().st_mode & stat.S_IXUSR
    assert git(tree, "status", "--short").startswith("M"), "the index is as it was"


def test_large_binary_secret_and_odd_files_are_named_and_left_out(tree: Path, tmp_path: Path) -> None:
    (tree / "c.bin").write_bytes(b"\0\1\2")
    (tree / "b.py").write_bytes(b"x\n" * FILE_LIMIT)
    (tree / "a.py").write_text('one\npassword = "hunter2hunter2"\n')
    with (tree / "huge.py").open("wb") as file:
        file.truncate(1 << 40)
    (tree / "keys.yaml").write_text("ok: 1\napi_key: a1b2c3d4e5\n")
    (tree / "null.py").write_bytes(b"a\0b")
    (tree / 'qu"ote.py').write_text("q\n")
    (tree / "link.py").symlink_to("a.py")
    os.mkfifo(tree / "pipe.py")
    (tree / "good.py").write_text("good\n")
    state, patch = read_git(tree)
    assert state.dirty
    assert b"hunter2" not in patch and b"a1b2c3d4e5" not in patch
    assert set(applied(tree, patch, tmp_path / "clone")) == {"a.py", "b.py", "c.bin", "old.py", "good.py"}
    reasons = {name: reason.split(" bytes")[-1] or "large" for name, reason in state.omitted.items()}
    assert reasons == {
        "c.bin": "binary",
        "b.py": "large",
        "a.py": "a secret seems to stand in line 8 of its patch",
        "huge.py": "large",
        "keys.yaml": "a secret seems to stand in line 7 of its patch",
        "null.py": "binary",
        'qu"ote.py': "its name cannot stand in a patch",
        "link.py": "no regular file",
    }, "and a pipe is passed by git itself"


def test_a_patch_has_a_limit_and_names_what_is_above_it(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(git_state, "PATCH_LIMIT", 1 << 20)
    for number in range(3):
        (tree / f"n{number}.py").write_text("x" * 600_000)
    state, patch = read_git(tree)
    assert state.omitted == {f"n{n}.py": "the patch would have more than 1 MiB with it" for n in (1, 2)}
    assert len(patch) < 1 << 20


def test_runs_and_environments_below_the_tree_are_no_sources(tree: Path) -> None:
    for mark in ("origin.json", "pyvenv.cfg"):
        (tree / mark / "deep").mkdir(parents=True)
        (tree / mark / mark).touch()
        (tree / mark / "deep" / "config.yaml").write_text("a: 1\n")
    (tree / ".gitignore").write_text("ignored/\n.gitignore\n")
    (tree / "ignored").mkdir()
    (tree / "ignored" / "x.py").touch()
    state, patch = read_git(tree)
    assert (state.dirty, patch) == (False, b"")


def test_a_tree_before_its_first_commit_is_all_patch(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    (tmp_path / "a.py").write_text("a\n")
    git(tmp_path, "add", "a.py")
    state, patch = read_git(tmp_path)
    assert state.commit is None and state.dirty
    assert b"+a" in patch


def test_a_detached_head_has_no_branch(tree: Path) -> None:
    git(tree, "checkout", "--quiet", "--detach")
    assert read_git(tree)[0].branch is None


def test_neither_hooks_nor_filters_of_diff_nor_variables_of_git_have_a_say(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = tmp_path / "spy"
    spy.write_text(f"#!/bin/sh\ntouch {tmp_path}/called\n")
    spy.chmod(0o755)
    for key in ("core.fsmonitor", "diff.external"):
        git(tree, "config", key, str(spy))
    git(tree, "config", "diff.noprefix", "true")
    git(tree, "config", "color.ui", "always")
    (tree / "a.py").write_text("other\n")
    monkeypatch.setenv("GIT_DIR", str(tmp_path))
    monkeypatch.setenv("GIT_EXTERNAL_DIFF", str(spy))
    state, patch = read_git(tree)
    assert state.dirty
    assert patch.startswith(b"diff --git a/a.py b/a.py\n")
    assert not (tmp_path / "called").exists()


def test_code_outside_git_or_installed_or_ignored_is_of_no_tree(tree: Path, tmp_path: Path) -> None:
    assert find_work_tree(tree / "a.py") == tree
    assert find_work_tree(tmp_path) is None
    site = tree / "lib" / "site-packages" / "mmtrain"
    site.mkdir(parents=True)
    assert find_work_tree(site) is None
    (tree / ".gitignore").write_text("/vendored/\n")
    (tree / "vendored").mkdir()
    assert find_work_tree(tree / "vendored") is None


def test_a_tree_that_git_refuses_is_told_and_not_taken_for_none(tree: Path) -> None:
    (tree / ".git" / "config").write_text("[broken\n")
    with pytest.raises(GitError, match="bad config line 1"):
        find_work_tree(tree)


def test_a_machine_without_git_is_told(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(GitError, match="git cannot be run: No such file"):
        read_git(tree)


def test_a_git_that_hangs_is_given_up(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = tmp_path / "bin" / "git"
    slow.parent.mkdir()
    slow.write_text(
        '#!/bin/sh\ncase "$*" in *ls-files*) exec /bin/sleep 60;; esac\nexec /usr/bin/env -S PATH=$REAL git "$@"\n'
    )
    slow.chmod(0o755)
    monkeypatch.setenv("REAL", os.environ["PATH"])
    monkeypatch.setenv("PATH", f"{slow.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(git_state, "_SECONDS", 0.5)
    (tree / "a.py").write_text("other\n")
    state, patch = read_git(tree)
    assert state.commit is not None and b"+other" in patch, "what is known stays"
    assert state.omitted == {"untracked files": "git ls-files took more than 0.5 seconds"}


def test_the_remote_is_named_without_its_password(tree: Path) -> None:
    git(tree, "remote", "add", "upstream", "https://me:token@host/x.git")
    assert read_git(tree)[0].remote == "https://host/x.git"
    git(tree, "remote", "add", "origin", "git@host:x.git")
    assert read_git(tree)[0].remote == "git@host:x.git"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("ssh://git@host/x", "ssh://host/x"),
        ("https://host/x?token=1#f", "https://host/x"),
        ("user:pw@host:x.git", "host:x.git"),
        ("/a/path", "/a/path"),
    ],
)
def test_an_url_of_a_remote_is_stripped(url: str, shown: str) -> None:
    assert strip_url(url) == shown
