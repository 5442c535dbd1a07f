"""What git knows of a source tree: its commit, and a patch of everything that was not committed."""

from __future__ import annotations

import itertools
import os
import re
import stat
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmtrain.config.secret import mask_urls, secret_line
from mmtrain.run.source_tree import SUFFIXES

FILE_LIMIT = 1 << 20
"""Bytes of a changed file above which it is named and not included."""
PATCH_LIMIT = 8 << 20
"""Bytes of a whole patch."""

_SETTINGS = frozenset({".sh", ".sbatch", ".yaml", ".yml", ".toml", ".cfg", ".ini"})
_UNTRACKED = SUFFIXES | _SETTINGS
_MARKS = ("origin.json", "pyvenv.cfg")
_INSTALLED = frozenset({"site-packages", "dist-packages"})
_NAMED = 200
_SECONDS = 20
# Neither prompts, nor writes the index, nor runs what a repository's own settings name, nor compares large files.
_GIT = ("git", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-c", "core.quotePath=false",
        "-c", f"core.bigFileThreshold={FILE_LIMIT}")  # fmt: skip
_PLAIN = ("--no-ext-diff", "--no-textconv", "--no-color", "--no-renames", "--no-relative", "--src-prefix=a/",
          "--dst-prefix=b/")  # fmt: skip
_QUERY = re.compile(r"[?#].*$")


@dataclass(frozen=True)
class GitState:
    """A work tree.

    Attributes:
        root: Its top folder.
        commit: Full hash of HEAD; None before the first commit.
        branch: None where HEAD is detached.
        remote: URL of ``origin``, or of the first remote, without user and query; None where there is none.
        dirty: Whether there is uncommitted work: changed files, or untracked source files.
        omitted: Changed files that the patch does not hold, and why.
    """

    root: str
    commit: str | None
    branch: str | None
    remote: str | None
    dirty: bool
    omitted: dict[str, str] = field(default_factory=dict)


class GitError(Exception):
    """git is not there, or refuses, or takes too long."""


def find_work_tree(place: Path) -> Path | None:
    """Top folder of the work tree whose source ``place`` is; None where it is none.

    A package that was installed below somebody's work tree, or that is ignored there, is not of that tree.

    Raises:
        GitError: git cannot tell.
    """
    folder = place if place.is_dir() else place.parent
    if _INSTALLED.intersection(place.parts):
        return None
    found = _run(folder, ("rev-parse", "--show-toplevel"))
    if found.returncode != 0:
        if b"not a git repository" in found.stderr or b"must be run in a work tree" in found.stderr:
            return None
        raise GitError(_complaint(found))
    root = Path(os.fsdecode(found.stdout).removesuffix("\n"))
    ignored = root != place and _run(folder, ("check-ignore", "--quiet", "--", str(place))).returncode == 0
    return None if ignored else root


def read_git(root: Path) -> tuple[GitState, bytes]:
    """The state of a work tree, and a patch that makes it of its commit.

    Untracked files are in the patch where their names are those of source files and configs; what ``.gitignore`` names
    and the directories of runs are not. Binary files, large ones, and those in which a secret seems to stand are named,
    and not included.

    Raises:
        GitError: git cannot tell.
    """
    commit = _answer(root, "rev-parse", "--verify", "--quiet", "HEAD")
    base = commit or git(root, "hash-object", "-t", "tree", "/dev/null").decode().strip()
    omitted: dict[str, str] = {}
    changed = list(_changed(root, base, omitted))
    excluded = [f":(exclude,top,literal){name}" for name in omitted]
    tracked = git(root, "diff", *_PLAIN, base, "--", ":(top)", *excluded) if changed else b""
    try:
        untracked = list(_untracked(root))
    except GitError as error:  # of a work tree in which millions of files lie
        untracked = []
        omitted["untracked files"] = str(error)
    patch, size = [], 0
    for name, part in [*_parts(tracked), *_new_files(root, untracked, omitted)]:
        if size + len(part) > PATCH_LIMIT:
            omitted[name] = f"the patch would have more than {PATCH_LIMIT >> 20} MiB with it"
        elif (line := secret_line(part.decode(errors="replace"), settings=Path(name).suffix in _SETTINGS)) is not None:
            omitted[name] = f"a secret seems to stand in line {line} of its patch"
        else:
            patch.append(part)
            size += len(part)
    dirty = bool(changed or omitted or untracked)
    branch = _answer(root, "symbolic-ref", "--quiet", "--short", "HEAD")
    return GitState(str(root), commit, branch, _remote(root), dirty, _bounded(omitted)), b"".join(patch)


def _changed(root: Path, base: str, omitted: dict[str, str]) -> Iterator[str]:
    """Names of the tracked files that differ from the commit; notes those that a patch cannot or should not hold."""
    for line in git(root, "diff", "--numstat", "-z", *_PLAIN, base).split(b"\0")[:-1]:
        added, _, name_bytes = line.split(b"\t", 2)
        name = os.fsdecode(name_bytes)
        if (size := _size(root / name)) > FILE_LIMIT:
            omitted[name] = f"{size} bytes"
        elif added == b"-":
            omitted[name] = "binary"
        else:
            yield name


def _untracked(root: Path) -> Iterator[str]:
    known: dict[Path, bool] = {}
    for name_bytes in git(root, "ls-files", "--others", "--exclude-standard", "-z").split(b"\0")[:-1]:
        name = os.fsdecode(name_bytes)
        if Path(name).suffix in _UNTRACKED and not _is_product(root, Path(name).parent, known):
            yield name


def _is_product(root: Path, folder: Path, known: dict[Path, bool]) -> bool:
    """Whether a folder is of a run, whose configs are no source, or of a virtual environment."""
    if folder not in known:
        above = folder != folder.parent and _is_product(root, folder.parent, known)
        known[folder] = above or any((root / folder / mark).exists() for mark in _MARKS)
    return known[folder]


def _new_files(root: Path, names: Sequence[str], omitted: dict[str, str]) -> Iterator[tuple[str, bytes]]:
    """Patches that make untracked files, as git writes them."""
    for name in names:
        path = root / name
        try:
            status = path.lstat()
            if not stat.S_ISREG(status.st_mode):
                omitted[name] = "no regular file"
                continue
            if status.st_size > FILE_LIMIT:
                omitted[name] = f"{status.st_size} bytes"
                continue
            content = path.read_bytes()
        except OSError as error:
            omitted[name] = str(error.strerror)
            continue
        if b"\0" in content:
            omitted[name] = "binary"
        elif any(sign in name for sign in '"\\') or not name.isprintable():
            omitted[name] = "its name cannot stand in a patch"
        else:
            yield name, _new_file(os.fsencode(name), content, 0o755 if status.st_mode & 0o100 else 0o644)


def _new_file(name: bytes, content: bytes, mode: int) -> bytes:
    head = b"diff --git a/%s b/%s\nnew file mode 100%o\n" % (name, name, mode)
    if not content:
        return head
    lines = content.split(b"\n")
    last = lines.pop()
    count = len(lines) + bool(last)
    end = b"\t" if b" " in name else b""
    span = b"1" if count == 1 else b"1,%d" % count
    head += b"--- /dev/null\n+++ b/%s%s\n@@ -0,0 +%s @@\n" % (name, end, span)
    body = b"".join(b"+%s\n" % line for line in lines)
    return head + body + (b"+%s\n\\ No newline at end of file\n" % last if last else b"")


def patch_parts(patch: str) -> dict[str, str]:
    """The parts of a patch, by the file that each changes, without what git says of it."""
    parts = ((name, part.decode(errors="replace")) for name, part in _parts(patch.encode()))
    return {name: part[max(part.find("\n@@"), 0) :].lstrip("\n") for name, part in parts}


def _parts(patch: bytes) -> Iterator[tuple[str, bytes]]:
    """The parts of a patch, one a file."""
    starts = [match.start() for match in re.finditer(rb"^diff --git ", patch, re.MULTILINE)]
    for start, end in itertools.pairwise([*starts, len(patch)]):
        part = patch[start:end]
        head = part.partition(b"\n")[0].removeprefix(b"diff --git ")
        # "a/NAME b/NAME": nothing was renamed.
        yield os.fsdecode(head[2 : len(head) // 2]), part


def _remote(root: Path) -> str | None:
    names = (_answer(root, "remote") or "").splitlines()
    if not names:
        return None
    url = _answer(root, "remote", "get-url", "origin" if "origin" in names else names[0])
    return None if url is None else strip_url(url)


def strip_url(url: str) -> str:
    """A remote's URL without user, password and query; ``git@host:path`` stays."""
    if "://" in url:
        return _QUERY.sub("", mask_urls(url))
    user, _, rest = url.partition("@")
    return rest if ":" in user and rest else url


def _bounded(omitted: dict[str, str]) -> dict[str, str]:
    if len(omitted) <= _NAMED:
        return omitted
    kept = dict(list(omitted.items())[:_NAMED])
    return kept | {"...": f"and {len(omitted) - _NAMED} more"}


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def git(folder: Path, *arguments: str, seconds: float | None = None) -> bytes:
    """What git prints.

    Raises:
        GitError: It is not there, fails, or takes longer than ``seconds``; None for the usual patience.
    """
    done = _run(folder, arguments, seconds)
    if done.returncode != 0:
        raise GitError(_complaint(done))
    return done.stdout


def _answer(folder: Path, *arguments: str) -> str | None:
    """What git prints, where it may have no answer."""
    done = _run(folder, arguments)
    return None if done.returncode != 0 else done.stdout.decode(errors="replace").strip() or None


def _complaint(done: subprocess.CompletedProcess[bytes]) -> str:
    lines = done.stderr.decode(errors="replace").splitlines()
    return next((line for line in lines if line.strip()), f"git ended with {done.returncode}")


def _run(folder: Path, arguments: Sequence[str], seconds: float | None = None) -> subprocess.CompletedProcess[bytes]:
    # GIT_DIR and its like, which a hook may have set, would tell of another work tree.
    kept = {name for name in os.environ if not name.startswith("GIT_") or name.startswith("GIT_CONFIG")}
    environment = {name: os.environ[name] for name in kept}
    environment |= {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    command = [*_GIT, "-C", str(folder), *arguments]
    limit = _SECONDS if seconds is None else seconds
    try:
        return subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=limit, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise GitError(f"git {arguments[0]} took more than {limit} seconds") from error
    except OSError as error:
        raise GitError(f"git cannot be run: {error.strerror}") from error
