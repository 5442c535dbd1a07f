"""Data sets larger than the disk: a manifest that lists the same few real shards again and again."""

from __future__ import annotations

import dataclasses

from mmtrain.data import Manifest


def repeat(manifest: Manifest, samples: int) -> Manifest:
    """A data set of at least ``samples`` samples. Each can be read: its number leads to a real shard."""
    times = -(-samples // manifest.samples)
    return dataclasses.replace(manifest, shards=manifest.shards * times)
