"""``python -m mmtrain data prepare|inspect``: makes a data set's shards, and looks into them."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mmtrain.data import Manifest, ShardReader, load_manifest, open_shards
from mmtrain.data.sources import Source
from mmtrain.data.sources.emoji import Emoji
from mmtrain.errors import DataError, UserError, did_you_mean

SOURCES: dict[str, Callable[[int], Source]] = {"emoji": Emoji}


def data(argv: list[str]) -> None:
    """Runs ``data prepare`` or ``data inspect``.

    Raises:
        UserError: No such verb or data set.
        DataError: The data cannot be had, or is damaged.
    """
    verbs = {"prepare": _prepare, "inspect": _inspect}
    if not argv or argv[0] in ("-h", "--help"):
        Console().print("usage: python -m mmtrain data [prepare NAME | inspect DIR] [-h]", markup=False)
        return
    if argv[0] not in verbs:
        raise UserError(f"there is no `data {argv[0]}`", where="command line", mend=did_you_mean(argv[0], verbs))
    verbs[argv[0]](argv[1:])


def _prepare(argv: list[str]) -> None:
    parser = argparse.ArgumentParser("python -m mmtrain data prepare", description="Makes a data set's shards.")
    parser.add_argument("name", help=", ".join(SOURCES))
    parser.add_argument("--root", type=Path, help="folder to make; $MMTRAIN_DATA/NAME or data/NAME if not given")
    parser.add_argument("--image-size", type=int, default=72, help="height and width of the pictures, in pixels")
    arguments = parser.parse_args(argv)
    if arguments.name not in SOURCES:
        mend = did_you_mean(arguments.name, SOURCES)
        raise UserError(f"there is no data set {arguments.name!r}", where="command line", mend=mend)
    root = arguments.root or Path(os.environ.get("MMTRAIN_DATA", "data")) / arguments.name
    SOURCES[arguments.name](arguments.image_size).prepare(root)
    _print_table(root, _manifests(root))
    Console().print(f"Sources, licences and what to beware of: {root / 'README.md'}", markup=False, soft_wrap=True)


def _inspect(argv: list[str]) -> None:
    parser = argparse.ArgumentParser("python -m mmtrain data inspect", description="Looks into shards.")
    parser.add_argument("folder", metavar="DIR", type=Path, help="a data set, or a folder or pattern of shards")
    parser.add_argument("--samples", type=int, default=3, help="samples to show of each set")
    parser.add_argument("--verify", action="store_true", help="read every byte and compare its hash")
    arguments = parser.parse_args(argv)
    manifests = _manifests(arguments.folder)
    _print_table(arguments.folder, manifests)
    for name, manifest in manifests.items():
        _print_samples(name, manifest, arguments.samples)
    if arguments.verify:
        for manifest in manifests.values():
            _verify(manifest)
        Console().print("Every shard and sample is what the manifest says.")


def _manifests(root: Path) -> dict[str, Manifest]:
    """The sets in a data set's folder, by name, or the one that ``root`` itself is."""
    found = sorted(path.parent for path in root.glob("*/manifest.json"))
    if found and not (root / "manifest.json").exists():
        return {folder.name: load_manifest(folder / "manifest.json") for folder in found}
    return {root.name: open_shards(root)}


def _print_table(root: Path, manifests: dict[str, Manifest]) -> None:
    table = Table(title=escape(str(root)), title_justify="left")
    table.add_column("set")
    for column in ("samples", "shards", "MiB"):
        table.add_column(column, justify="right")
    table.add_column("fingerprint")
    for name, manifest in manifests.items():
        mib = sum(shard.bytes for shard in manifest.shards) / 2**20
        cells = (f"{manifest.samples:,}", str(len(manifest.shards)), f"{mib:,.1f}", manifest.fingerprint[:12])
        table.add_row(escape(name), *cells)
    Console().print(table)


def _print_samples(name: str, manifest: Manifest, count: int) -> None:
    reader = ShardReader(manifest)
    for number in range(min(count, len(reader))):
        sample = reader.read(number)
        members = ", ".join(f"{key} {len(value):,} B" for key, value in sample.items() if key != "__key__")
        caption = sample["txt"].decode(errors="replace") if "txt" in sample else ""
        line = f"{name}  {sample['__key__']}  {json.dumps(caption, ensure_ascii=False)}  ({members})"
        Console().print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)


def _verify(manifest: Manifest) -> None:
    """Raises for the first sample, else the first shard, that is not what was indexed."""
    reader = ShardReader(manifest, verify=True)
    for number in range(len(reader)):
        reader.read(number)
    for position, shard in enumerate(manifest.shards):
        path = manifest.shard_path(position)
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != shard.sha256:
            reason = f"the shard changed outside its samples: sha256 {found}, the manifest says {shard.sha256}"
            raise DataError(reason, where=str(path), mend="restore the shard")
