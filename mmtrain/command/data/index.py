"""``python -m mmtrain data index SHARDS``: indexes anyone's WebDataset shards, so that they can be trained on."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from mmtrain.command.data.table import mib, print_table
from mmtrain.data import Manifest, ShardIndex
from mmtrain.data.progress import progress_bar
from mmtrain.data.shards.build import find_shards, index_shards
from mmtrain.data.shards.columns import COLUMNS
from mmtrain.data.shards.index import index_path
from mmtrain.data.shards.manifest import is_url
from mmtrain.errors import UserError

_DESCRIPTION = """\
Reads each shard once and writes NAME.tar.mmidx beside it (where its samples lie, and their checksums), then the
manifest of the data set. Shards are not changed. Indexed ones are not read again: run it again after an interruption.
"""


def index(argv: list[str]) -> None:
    """Indexes a folder or pattern of shards and says what it found.

    Raises:
        UserError: The arguments do not fit together.
        DataError: A shard is missing or damaged, there is no such column, or the folder cannot be written.
    """
    arguments = _parser().parse_args(argv)
    columns = tuple(name for name in arguments.columns.split(",") if name)
    is_remote = is_url(arguments.shards)
    if is_remote != (arguments.out is not None):
        mend = "give --out DIR" if is_remote else "leave --out away: the index lies beside the shards"
        reason = "the index of remote shards needs a folder of its own; that of others has one"
        raise UserError(reason, where="--out", mend=mend)
    if is_remote and (arguments.force or arguments.workers is not None):
        mend = "leave them away; to read shards again, delete their .mmidx"
        raise UserError("--workers and --force are for shards on this machine", where="command line", mend=mend)
    if is_remote:
        _index_remote(arguments.shards, arguments.out, columns)
    else:
        _index_local(arguments.shards, columns, arguments.workers, arguments.force)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m mmtrain data index", description=_DESCRIPTION)
    parser.add_argument(
        "shards", help="a folder of .tar files, or a pattern such as 'path/{00000..01242}.tar' or a URL"
    )
    parser.add_argument(
        "--columns", default="", help=f"numbers to store for each sample, by commas: {', '.join(COLUMNS)}"
    )
    parser.add_argument("--workers", type=_positive, help="processes; by default as many as help")
    parser.add_argument("--force", action="store_true", help="read indexed shards again")
    parser.add_argument("--out", metavar="DIR", type=Path, help="folder for the index of remote shards")
    return parser


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError("a number of at least 1")
    return int(text)


def _index_local(spec: str, columns: Sequence[str], workers: int | None, force: bool) -> None:
    paths, _ = find_shards(spec)
    before = [_written(path) for path in paths]
    start = time.perf_counter()
    with progress_bar("Indexing shards") as progress:
        manifest = index_shards(spec, columns=columns, num_workers=workers, force=force, progress=progress)
    seconds = time.perf_counter() - start
    read = [path for path, time_before in zip(paths, before, strict=True) if _written(path) != time_before]
    members = sum(ShardIndex(path).members for path in read)
    _report(spec, manifest, (("members/s", f"{members / seconds:,.0f}" if read else "(indexed before)"),))


def _written(shard: Path) -> int | None:
    """When a shard's index was written; None where there is none."""
    path = index_path(shard)
    return path.stat().st_mtime_ns if path.exists() else None


def _index_remote(pattern: str, out: Path, columns: Sequence[str]) -> None:
    from mmtrain.data.fetch.remote_index import index_remote

    with progress_bar("Indexing shards") as progress:
        _report(pattern, index_remote(pattern, out, columns=columns, progress=progress), ())


def _report(spec: str, manifest: Manifest, more: Sequence[tuple[str, str]]) -> None:
    figures = (
        ("shards", f"{len(manifest.shards):,}"),
        ("samples", f"{manifest.samples:,}"),
        ("MiB", mib(manifest)),
        *more,
    )
    print_table(spec, [name for name, _ in figures], [[value for _, value in figures]], left=())
    Console().print(f"Manifest: {manifest.path}", markup=False, highlight=False, soft_wrap=True)
