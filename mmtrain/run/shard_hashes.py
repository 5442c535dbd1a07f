"""The shards that a run is trained and evaluated on, as the manifests of its data sets list them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mmtrain.data.download import default_cache_dir
from mmtrain.data.fetch.open import open_data_set
from mmtrain.data.shards.manifest import file_name
from mmtrain.errors import UserError

MOST_SHARDS = 50_000
"""Of a source; those of a larger one are told by its fingerprint alone."""

_LOG = logging.getLogger(__name__)


def shard_hashes(config: Mapping[str, Any], sources: Iterable[str]) -> dict[str, dict[str, str]]:
    """sha256 of each shard, by source and file name. Shards are not read: their hashes stand in the manifests.

    Args:
        config: Config of the run, whose data are prepared.
        sources: Names among the fingerprints of the run: ``train``, ``train/NAME`` or ``eval/NAME``; others have no
            shards, and are left out.
    """
    data, found = config.get("data", {}), {}
    for source in sources:
        if (place := _place(data, source)) is None:
            continue
        cache = (data.get("cache") or {}).get("dir")
        try:
            manifest, _ = open_data_set(place, Path(cache) if cache else default_cache_dir() / "shards")
        except (UserError, OSError) as error:
            _LOG.info("the shards of %s are not recorded: %s", source, error)
            continue
        if len(manifest.shards) <= MOST_SHARDS:
            found[source] = {file_name(shard.name): shard.sha256 for shard in manifest.shards}
    return found


def _place(data: Mapping[str, Any], source: str) -> str | None:
    """Where a source lies, by the settings that all data nodes share: ``root`` and ``train``."""
    root, train = data.get("root"), data.get("train")
    kind, _, name = source.partition("/")
    if kind not in ("train", "eval"):
        return None
    if kind == "train" and isinstance(train, Mapping):
        found = train.get(name) if name else next(iter(train.values()), None)
        return str(found) if found is not None else None
    if source == "train" and train is not None:
        return str(train)
    return None if root is None else f"{root}/{name or kind}"
