"""The manifest of a data set: its shards, their sizes and hashes, and one fingerprint of it all.

``manifest.json`` is a superset of webdataset's ``wids-shard-index-v1`` (fields ``shardlist``, ``url``, ``nsamples``,
``filesize``) with each shard's ``sha256`` and the data set's ``fingerprint``. Planning an epoch needs nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from mmtrain.data.index import ShardInfo, write_atomically, write_index
from mmtrain.data.tar import refuse_compressed
from mmtrain.errors import DataError

MANIFEST = "manifest.json"
_KIND = "wids-shard-index-v1"
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")

Progress = Callable[[int, int], None]
"""Called with the number of shards indexed and the number there are."""


@dataclass(frozen=True)
class Manifest:
    """An indexed data set.

    Attributes:
        path: The manifest file; the shards lie in its folder.
        shards: In the order that numbers the samples.
        fingerprint: sha256 over the shards' names, sha256 and counts.
    """

    path: Path
    shards: tuple[ShardInfo, ...]
    fingerprint: str

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Samples of each shard."""
        return np.array([shard.samples for shard in self.shards], np.int64)

    @property
    def samples(self) -> int:
        """Samples of the data set."""
        return sum(shard.samples for shard in self.shards)

    def shard_path(self, shard: int) -> Path:
        """Where a shard lies. Its name is taken as a file name, whatever folders it may claim."""
        return self.path.parent / Path(self.shards[shard].name).name


def build_manifest(paths: Sequence[Path], out: Path, progress: Progress | None = None) -> Manifest:
    """Indexes shards and writes their manifest.

    Args:
        paths: The shards, in the order that numbers the samples; all in the folder of ``out``.
        out: The manifest to write.
        progress: Told after each shard.

    Raises:
        DataError: A shard is missing, compressed, elsewhere, or damaged; or the folder cannot be written.
    """
    if not paths:
        raise DataError("a data set has no shards", where=str(out.parent), mend="write or copy its .tar files there")
    for path in paths:
        if path.parent != out.parent:
            raise DataError(
                "a shard lies outside its manifest's folder", where=str(path), mend=f"move it to {out.parent}"
            )
    shards: list[ShardInfo] = []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # reading and hashing release the interpreter's lock
        for shard in pool.map(write_index, paths):
            shards.append(shard)
            if progress is not None:
                progress(len(shards), len(paths))
    manifest = Manifest(out, tuple(shards), _fingerprint(shards))
    content = {
        "__kind__": _KIND,
        "wids_version": 1,
        "name": out.parent.name,
        "fingerprint": manifest.fingerprint,
        "shardlist": [
            {"url": shard.name, "nsamples": shard.samples, "filesize": shard.bytes, "sha256": shard.sha256}
            for shard in shards
        ],
    }
    write_atomically(out, json.dumps(content, indent=1).encode())
    return manifest


def load_manifest(path: Path) -> Manifest:
    """Reads a manifest.

    Raises:
        DataError: It is missing, is not a manifest of this package, or was changed by hand.
    """
    mend = "delete it and index the shards again"
    try:
        content = json.loads(path.read_bytes())
        shards = tuple(
            ShardInfo(row["url"], row["nsamples"], row["filesize"], row["sha256"]) for row in content["shardlist"]
        )
        fingerprint = content["fingerprint"]
    except FileNotFoundError:
        raise DataError("a data set has no manifest", where=str(path), mend=_suggest_pattern(path.parent)) from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"not a manifest: {type(error).__name__}: {error}", where=str(path), mend=mend) from None
    if fingerprint != _fingerprint(shards):
        raise DataError("the manifest's fingerprint does not match its shards", where=str(path), mend=mend)
    return Manifest(path, shards, fingerprint)


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
    paths = expand(path)
    manifest = path.with_name(_RANGE.sub(r"\1-\2", path.stem) + "." + MANIFEST)
    if not manifest.exists():
        if not os.access(path.parent, os.W_OK):
            reason = "the folder of the shards is missing or cannot be written, and they are not indexed yet"
            mend = "index them once with an account that may write there, or copy them"
            raise DataError(reason, where=str(path.parent), mend=mend)
        with FileLock(str(manifest) + ".lock"):
            if not manifest.exists():
                return build_manifest(paths, manifest, progress)
    return load_manifest(manifest)


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


def _fingerprint(shards: Sequence[ShardInfo]) -> str:
    rows = [(shard.name, shard.sha256, shard.samples) for shard in shards]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _suggest_pattern(folder: Path) -> str:
    names = sorted(path.name for path in folder.glob("*.tar"))
    numbers = [re.search(r"(\d+)\.tar$", name) for name in names]
    if names and numbers[0] and numbers[-1]:
        stem = names[0][: numbers[0].start()]
        return f"name the shards by a pattern: {folder / stem}{{{numbers[0][1]}..{numbers[-1][1]}}}.tar"
    return "give a folder that holds a manifest.json, or a pattern such as folder/train-{00000..00099}.tar"
