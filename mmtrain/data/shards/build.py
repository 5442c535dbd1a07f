"""Indexing a whole data set: its shards in parallel, none that is indexed already, and its manifest."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

from filelock import FileLock

from mmtrain.data.shards.columns import COLUMNS, columns_named
from mmtrain.data.shards.index import ShardIndex, existing_index, write_index
from mmtrain.data.shards.manifest import MANIFEST, Manifest, Progress, load_manifest, save_manifest
from mmtrain.data.shards.sidecar import ShardInfo
from mmtrain.data.shards.tar import refuse_compressed
from mmtrain.errors import DataError

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
# A process may take a second to start; in that, one reads and hashes about this many bytes.
_BYTES_WORTH_A_PROCESS = 2**30


def build_manifest(
    paths: Sequence[Path],
    out: Path,
    *,
    columns: Sequence[str] = (),
    num_workers: int | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Manifest:
    """Indexes shards and writes their manifest.

    A shard whose index is whole, newer than the shard, and has the columns is not read again: an interrupted call goes
    on where it stopped.

    Args:
        paths: The shards, in the order that numbers the samples; all in the folder of ``out``.
        out: The manifest to write.
        columns: Names of `mmtrain.data.shards.columns.COLUMNS` that each index shall have, beside those that it has.
        num_workers: Processes that read shards; 1 reads in this one. By default as many as the machine has cores, if
            there is enough to read to be worth their start.
        force: Read all shards, whatever their index says.
        progress: Told after each shard.

    Raises:
        DataError: A shard is missing, compressed, elsewhere, or damaged; the folder cannot be written; or there is no
            such column.
    """
    if not paths:
        raise DataError("a data set has no shards", where=str(out.parent), mend="write or copy its .tar files there")
    for path in paths:
        if path.parent != out.parent:
            raise DataError(
                "a shard lies outside its manifest's folder", where=str(path), mend=f"move it to {out.parent}"
            )
    columns_named(columns)  # an unknown name is told before anything is read
    known = {path: info for path in paths if not force and (info := existing_index(path, columns)) is not None}
    unread = [path for path in paths if path not in known]
    workers = min(num_workers or _worthwhile_workers(unread), len(unread))
    read = partial(_index, columns=tuple(columns))
    with closing(_in_processes(read, unread, workers) if workers > 1 else _in_turn(read, unread)) as infos:
        for path, info in zip(unread, infos, strict=True):
            known[path] = info
            if progress is not None:
                progress(len(known), len(paths))
    return save_manifest(out, [known[path] for path in paths])


def index_shards(
    spec: str | Path,
    *,
    columns: Sequence[str] = (),
    num_workers: int | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Manifest:
    """Indexes what ``spec`` names and writes its manifest anew, so that `open_shards` opens it; see `build_manifest`.

    Args:
        spec: A folder, whose ``.tar`` files are taken in the order of their names, or a pattern of shards.
    """
    paths, manifest = find_shards(spec)
    with _lock(manifest):
        return build_manifest(paths, manifest, columns=columns, num_workers=num_workers, force=force, progress=progress)


def open_shards(spec: str | Path, progress: Progress | None = None) -> Manifest:
    """The data set that ``spec`` names.

    Args:
        spec: A folder with a ``manifest.json``, or a pattern of shards such as ``folder/train-{00000..01242}.tar``.
            What a pattern names is indexed at its first use, once, however many processes ask for it together.
        progress: Told after each shard that is indexed.

    Raises:
        DataError: Nothing lies there, a shard is missing or damaged, or the index cannot be written.
    """
    path = Path(spec)
    if path.suffix != ".tar":
        refuse_compressed(path)
        return load_manifest(path / MANIFEST)
    paths, manifest = find_shards(path)
    if not manifest.exists():
        with _lock(manifest):
            if not manifest.exists():
                return build_manifest(paths, manifest, progress=progress)
    return load_manifest(manifest)


def find_shards(spec: str | Path) -> tuple[list[Path], Path]:
    """The shards that a folder or a pattern names, and the place of their manifest."""
    path = Path(spec)
    if path.suffix == ".tar":
        return expand(path), path.with_name(_RANGE.sub(r"\1-\2", path.stem) + "." + MANIFEST)
    refuse_compressed(path)
    if not path.is_dir():
        mend = "give a folder of .tar files, or a pattern such as folder/train-{00000..00099}.tar"
        raise DataError("there is no such folder", where=str(path), mend=mend)
    # macOS leaves ._NAME.tar beside what it copies.
    return sorted(file for file in path.glob("*.tar") if not file.name.startswith(".")), path / MANIFEST


def expand(pattern: Path) -> list[Path]:
    """The files that a pattern names: ``a-{08..10}.tar`` -> ``a-08.tar``, ``a-09.tar``, ``a-10.tar``."""
    match = _RANGE.search(pattern.name)
    if match is None:
        return [pattern]
    first, last = match[1], match[2]
    if int(first) > int(last):
        raise DataError(f"{match[0]} counts down", where=str(pattern), mend=f"write {{{last}..{first}}}")
    names = (
        pattern.name.replace(match[0], f"{number:0{len(first)}d}", 1) for number in range(int(first), int(last) + 1)
    )
    return [path for name in names for path in expand(pattern.with_name(name))]


def _lock(manifest: Path) -> FileLock:
    if not os.access(manifest.parent, os.W_OK):
        reason = "the folder of the shards is missing or cannot be written, and they are not indexed yet"
        mend = "index them once with an account that may write there, or copy them"
        raise DataError(reason, where=str(manifest.parent), mend=mend)
    return FileLock(f"{manifest}.lock")


def _index(shard: Path, *, columns: tuple[str, ...]) -> ShardInfo:
    """Writes a shard's index, with the columns that it had, too."""
    with suppress(DataError):
        columns += tuple(name for name in ShardIndex(shard).columns if name in COLUMNS and name not in columns)
    return write_index(shard, columns)


def _worthwhile_workers(paths: Sequence[Path]) -> int:
    size = sum(path.stat().st_size for path in paths if path.is_file())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, size // _BYTES_WORTH_A_PROCESS))


def _in_turn(read: partial[ShardInfo], paths: Sequence[Path]) -> Generator[ShardInfo, None, None]:
    yield from map(read, paths)


def _in_processes(
    read: partial[ShardInfo], paths: Sequence[Path], num_workers: int
) -> Generator[ShardInfo, None, None]:
    pool = ProcessPoolExecutor(num_workers, initializer=_start_worker)
    try:
        yield from pool.map(read, paths)
    except BrokenProcessPool:
        reason = "a process that indexes shards was killed, or could not start"
        mend = "free memory, use fewer workers, or run python -m mmtrain data index"
        raise DataError(reason, where=str(paths[0].parent), mend=mend) from None
    finally:
        # After an error or Ctrl-C: shards that are being read are finished, and need not be read again.
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    # Ctrl-C reaches the whole process group; it is for the parent to end the work.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that was killed cannot tell its workers to end, and they would wait for work forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
