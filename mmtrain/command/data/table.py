"""Tables about data sets, as the ``data`` commands print them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mmtrain.data import Manifest, load_manifest, open_shards
from mmtrain.data.progress import progress_bar


def find_sets(root: Path) -> dict[str, Manifest]:
    """The sets in a data set's folder, by name, or the one that ``root`` itself is.

    Raises:
        DataError: There are no indexed shards, and none can be indexed.
    """
    found = sorted(path.parent for path in root.glob("*/manifest.json")) if root.is_dir() else []
    if found and not (root / "manifest.json").exists():
        return {folder.name: load_manifest(folder / "manifest.json") for folder in found}
    with progress_bar("Indexing shards") as progress:
        return {root.name: open_shards(root, progress)}


def print_sets(title: str, sets: Mapping[str, Manifest]) -> None:
    """One row a set: how much it holds, and its fingerprint."""
    columns = ("set", "samples", "shards", "MiB", "fingerprint")
    rows = [
        (name, f"{manifest.samples:,}", f"{len(manifest.shards):,}", mib(manifest), manifest.fingerprint[:12])
        for name, manifest in sets.items()
    ]
    print_table(title, columns, rows, left=("set", "fingerprint"))


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[str], whole: Sequence[str] = ()
) -> None:
    """A table whose columns are aligned to the right, but for those named in ``left``.

    On a narrow terminal, cells go on in further lines, but for those of the columns named in ``whole``.
    """
    table = Table(title=escape(printable(title)), title_justify="left")
    for column in columns:
        table.add_column(
            escape(printable(column)),
            justify="left" if column in left else "right",
            overflow="fold",
            no_wrap=column in whole,
        )
    for row in rows:
        table.add_row(*(escape(printable(cell)) for cell in row))
    Console().print(table)


def mib(manifest: Manifest) -> str:
    """Size of the shards in MiB."""
    return f"{sum(shard.bytes for shard in manifest.shards) / 2**20:,.1f}"


def printable(text: str) -> str:
    """Text that a terminal shows and is not steered by: names and captions are made by strangers."""
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)
