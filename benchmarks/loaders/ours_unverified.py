"""mmtrain.data without the checksum of each sample's bytes: for information."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from loaders import ours
from mmtrain.data import ShardReader, open_shards


def prepare(tar: Path, out: Path) -> None:
    """The index lies beside the shards."""


def raw(tar: Path, prepared: Path) -> Iterator[int]:
    return ours.read(ShardReader(open_shards(tar), verify=False))
