"""The manifest of a data set: its shards, their sizes and hashes, and one fingerprint of it all.

``manifest.json`` is a superset of webdataset's ``wids-shard-index-v1`` (fields ``shardlist``, ``url``, ``nsamples``,
``filesize``) with each shard's ``sha256`` and the data set's ``fingerprint``. Planning an epoch needs nothing else.
"""

from __future__ import annotations

import hashlib
import json
import re
import urllib.parse
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmtrain.data.shards.atomic import write_atomically
from mmtrain.data.shards.sidecar import ShardInfo
from mmtrain.errors import DataError

MANIFEST = "manifest.json"
_KIND = "wids-shard-index-v1"
_TAR_IN_COMMAND = re.compile(r"[^\s/'\"?&=|;<>()]+\.tar\b")
_SAFE_IN_COMMAND = re.compile(r"[\w.][\w.,=+@%:-]*", re.ASCII)

Progress = Callable[[int, int], None]
"""Called with the number of shards indexed and the number there are."""


@dataclass(frozen=True)
class Manifest:
    """An indexed data set.

    Attributes:
        path: The manifest file; shards with a plain name, and the indexes of remote ones, lie in its folder.
        shards: In the order that numbers the samples. A shard's name may be a URL.
        fingerprint: sha256 over the shards' file names, sha256 and counts: the same wherever they lie.
        base: For a manifest that was fetched, where the shards with a plain name lie: the URL of its folder, or a
            command ``pipe:... {name} ...``.
    """

    path: Path
    shards: tuple[ShardInfo, ...]
    fingerprint: str
    base: str | None = None

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Samples of each shard."""
        return np.array([shard.samples for shard in self.shards], np.int64)

    @property
    def samples(self) -> int:
        """Samples of the data set."""
        return sum(shard.samples for shard in self.shards)

    @property
    def is_remote(self) -> bool:
        """Whether any shard must be fetched."""
        return self.base is not None or any(is_url(shard.name) for shard in self.shards)

    def shard_path(self, shard: int) -> Path:
        """A shard's place beside the manifest. Its name is taken as a file name, whatever folders it may claim."""
        return self.path.parent / file_name(self.shards[shard].name)

    def shard_url(self, shard: int) -> str | None:
        """Where a shard is fetched from; None for one that lies beside the manifest."""
        name = self.shards[shard].name
        if is_url(name):
            return name
        return None if self.base is None else join(self.base, file_name(name))


def is_url(name: str) -> bool:
    """Whether ``name`` is a URL or a command (``pipe:...``), and not the path of a file."""
    return name.startswith("pipe:") or "://" in name


def file_name(name: str) -> str:
    """The file name in a path, a URL, or a command (its last word in .tar): ``s3://bucket/a/0.tar`` -> ``0.tar``."""
    if name.startswith("pipe:"):
        words = _TAR_IN_COMMAND.findall(name)
        if not words:
            raise DataError("the command names no .tar file", where=name, mend="end its URL in the shard's name")
        return str(words[-1])
    if is_url(name):
        name = urllib.parse.urlsplit(name).path
    return name.rpartition("/")[2]


def join(base: str, name: str) -> str:
    """The URL or command of the file ``name`` under ``base``.

    Raises:
        DataError: The name would mean something to a shell, and the base is a command.
    """
    if base.startswith("pipe:"):
        # Quoting is not enough: the command may itself put {name} in quotes, or hand it to a second shell (ssh).
        if not _SAFE_IN_COMMAND.fullmatch(name):
            mend = "rename the shard: letters, digits and the signs _ . , = + @ % : - are safe"
            raise DataError("a shard's name cannot stand in a command", where=repr(name), mend=mend)
        return base.replace("{name}", name)
    if base.startswith(("http://", "https://")):
        parts = urllib.parse.urlsplit(base)  # a query is a signature, which holds for all of a folder
        return urllib.parse.urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{urllib.parse.quote(name)}"))
    return f"{base.rstrip('/')}/{name}"


def save_manifest(path: Path, shards: Sequence[ShardInfo]) -> Manifest:
    """Writes the manifest of shards that are indexed already.

    Args:
        path: The file to write.
        shards: In the order that numbers the samples; each one's ``name`` is a file beside ``path``, or a URL.

    Raises:
        DataError: Two shards bear one file name, or the folder cannot be written.
    """
    _refuse_twins(path, shards)
    manifest = Manifest(path, tuple(shards), fingerprint(shards))
    content = {
        "__kind__": _KIND,
        "wids_version": 1,
        "name": path.parent.name,
        "fingerprint": manifest.fingerprint,
        "shardlist": [_row(shard) for shard in shards],
    }
    write_atomically(path, json.dumps(content, indent=1).encode())
    return manifest


def load_manifest(path: Path, base: str | None = None) -> Manifest:
    """Reads a manifest.

    Args:
        path: The file.
        base: Where it was fetched from, if it was: see `Manifest`.

    Raises:
        DataError: It is missing, is not a manifest of this package, or was changed by hand; or it was fetched and would
            have commands run here.
    """
    mend = "delete it and index the shards again"
    try:
        content = json.loads(path.read_bytes())
        shards = tuple(_info(row) for row in content["shardlist"])
        expected = content["fingerprint"]
        found = fingerprint(shards)
    except FileNotFoundError:
        raise DataError("a data set has no manifest", where=str(path), mend=_suggest_pattern(path.parent)) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"not a manifest: {type(error).__name__}: {error}", where=str(path), mend=mend) from None
    if expected != found:
        raise DataError("the manifest's fingerprint does not match its shards", where=str(path), mend=mend)
    if base is not None and any(shard.name.startswith("pipe:") for shard in shards):
        reason = "a manifest that was fetched names commands to run"
        raise DataError(reason, where=base, mend="copy it to this machine if you trust its author, and name the copy")
    _refuse_twins(path, shards)
    return Manifest(path, shards, expected, base)


def fingerprint(shards: Sequence[ShardInfo]) -> str:
    """sha256 over the shards' file names, sha256 and counts, in order."""
    rows = [(file_name(shard.name), shard.sha256, shard.samples) for shard in shards]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _row(shard: ShardInfo) -> dict[str, Any]:
    row = {"url": shard.name, "nsamples": shard.samples, "filesize": shard.bytes, "sha256": shard.sha256}
    return row | ({"totals": dict(shard.totals)} if shard.totals else {})


def _info(row: dict[str, Any]) -> ShardInfo:
    return ShardInfo(row["url"], row["nsamples"], row["filesize"], row["sha256"], row.get("totals", {}))


def require_same(found: ShardInfo, expected: ShardInfo, where: str) -> None:
    """Raises a `DataError` where an index is not that of the shard in the manifest, by whatever name."""
    if (found.samples, found.bytes, found.sha256) != (expected.samples, expected.bytes, expected.sha256):
        reason = "the shard was replaced: its index and the manifest disagree"
        raise DataError(reason, where=where, mend="restore the shard, or index the data set anew")


def _refuse_twins(path: Path, shards: Sequence[ShardInfo]) -> None:
    """Each shard's index bears its file name, in one folder."""
    names = Counter(file_name(shard.name) for shard in shards)
    if len(names) < len(shards):
        (name, count), *_ = names.most_common(1)
        mend = "give each shard a name of its own, or make a data set of each folder"
        raise DataError(f"{count} shards of a data set are called {name}", where=str(path), mend=mend)


def _suggest_pattern(folder: Path) -> str:
    names = sorted(path.name for path in folder.glob("*.tar"))
    numbers = [re.search(r"(\d+)\.tar$", name) for name in names]
    if names and numbers[0] and numbers[-1]:
        stem = names[0][: numbers[0].start()]
        return f"name the shards by a pattern: {folder / stem}{{{numbers[0][1]}..{numbers[-1][1]}}}.tar"
    return "give a folder that holds a manifest.json, or a pattern such as folder/train-{00000..00099}.tar"
