"""``python -m mmtrain data inspect SHARDS``: what indexed shards hold, and whether it is what was indexed."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from mmtrain.command.data.grid import draw_grid
from mmtrain.command.data.table import find_sets, print_sets, print_table, printable
from mmtrain.command.data.verify import verify
from mmtrain.data import Manifest, RawSample, ShardIndex, ShardReader
from mmtrain.errors import DataError

_STATISTICS_SHARDS = 64
_GRID_SAMPLES = 24


def inspect(argv: list[str]) -> None:
    """Prints counts, sizes and samples of data sets, draws and verifies them as asked.

    Raises:
        DataError: There are no shards, a sample to be shown cannot be read, or the verification found damage.
    """
    parser = argparse.ArgumentParser("python -m mmtrain data inspect", description="Looks into shards.")
    parser.add_argument("shards", metavar="DIR|PATTERN", type=Path, help="a data set, or a folder or pattern of shards")
    parser.add_argument("--samples", type=int, help=f"samples to show of each set: 3, and {_GRID_SAMPLES} in a grid")
    parser.add_argument("--grid", metavar="FILE.png", type=Path, help="draw samples, with their captions, into a file")
    parser.add_argument("--verify", action="store_true", help="read every byte and compare its hash")
    arguments = parser.parse_args(argv)
    sets = find_sets(arguments.shards)
    needs_shards = arguments.samples or arguments.grid is not None or arguments.verify
    if needs_shards and any(manifest.is_remote for manifest in sets.values()):
        mend = "copy the shards to this machine, or leave --samples, --grid and --verify away"
        raise DataError("only the index of remote shards can be inspected", where=str(arguments.shards), mend=mend)
    print_sets(str(arguments.shards), sets)
    for name, manifest in sets.items():
        _print_statistics(name, manifest)
        if not manifest.is_remote:
            _print_samples(name, manifest, 3 if arguments.samples is None else arguments.samples)
    if arguments.grid is not None:
        count = _GRID_SAMPLES if arguments.samples is None else arguments.samples
        _write_grid(sets, count, arguments.grid)
    if arguments.verify:
        verify(sets.values())
        Console().print("Every shard and sample is what the manifest says.")


def _print_statistics(name: str, manifest: Manifest) -> None:
    """Smallest, median and largest of the samples' sizes and columns, over some shards of a large set."""
    count = len(manifest.shards)
    chosen = np.unique(np.linspace(0, count - 1, min(count, _STATISTICS_SHARDS)).astype(int)).tolist()
    indexes = [ShardIndex(manifest.shard_path(shard)) for shard in chosen]
    sizes = [np.diff(index.spans(), axis=1)[:, 0] for index in indexes]
    columns = {*indexes[0].columns}.intersection(*(index.columns for index in indexes))
    values = {"bytes": np.concatenate(sizes)} | {
        column: np.concatenate([index.column(column) for index in indexes]) for column in sorted(columns)
    }
    if not len(values["bytes"]):
        return
    rows = [_statistics(what, numbers, _total(manifest, what)) for what, numbers in values.items()]
    over = f", over {len(chosen)} of {count:,} shards" if len(chosen) < count else ""
    print_table(f"{name}: each sample's{over}", ("", "min", "median", "max", "total of the set"), rows, left=("",))


def _statistics(what: str, numbers: NDArray[np.integer], total: int) -> list[str]:
    return [what, f"{numbers.min():,}", f"{np.median(numbers):,.0f}", f"{numbers.max():,}", f"{total:,}"]


def _total(manifest: Manifest, what: str) -> int:
    return sum(shard.bytes if what == "bytes" else shard.totals.get(what, 0) for shard in manifest.shards)


def _print_samples(name: str, manifest: Manifest, count: int) -> None:
    reader = ShardReader(manifest)
    for number in range(min(count, len(reader))):
        sample = reader.read(number)
        members = ", ".join(f"{key} {len(value):,} B" for key, value in sample.items() if key != "__key__")
        line = f"{name}  {sample['__key__']}  {json.dumps(caption(sample), ensure_ascii=False)}  ({members})"
        Console().print(printable(line), markup=False, highlight=False, emoji=False, soft_wrap=True)


def _write_grid(sets: Mapping[str, Manifest], count: int, path: Path) -> None:
    samples = []
    for manifest in sets.values():
        reader = ShardReader(manifest)
        # Spread over the set: neighbours are often alike.
        for number in np.unique(np.linspace(0, len(reader) - 1, min(count, len(reader))).astype(int)).tolist():
            samples.append(reader.read(number))
    try:
        draw_grid([(sample, caption(sample) or str(sample["__key__"])) for sample in samples]).save(path)
    except OSError as error:
        raise DataError(f"the grid cannot be written: {error}", where=str(path), mend="name another file") from None
    Console().print(f"Grid: {path}", markup=False, highlight=False, soft_wrap=True)


def caption(sample: RawSample) -> str:
    """The text of a sample, as far as it has one."""
    return sample["txt"].decode(errors="replace") if "txt" in sample else ""
