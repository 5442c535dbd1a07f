"""Opens a data set wherever it lies."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

from mmtrain.data.fetch.cache import ShardCache
from mmtrain.data.fetch.remote import shown
from mmtrain.data.fetch.transfer import PATIENCE, Patience, download
from mmtrain.data.shards.build import open_shards
from mmtrain.data.shards.manifest import MANIFEST, Manifest, Progress, is_url, join, load_manifest
from mmtrain.errors import ConfigError, DataError


def open_data_set(
    spec: str | Path,
    cache_dir: Path | None = None,
    max_bytes: int | None = None,
    *,
    progress: Progress | None = None,
    patience: Patience = PATIENCE,
) -> tuple[Manifest, ShardCache | None]:
    """The data set that ``spec`` names, and the cache that its reader needs as ``store``: None for local shards.

    Args:
        spec: What `open_shards` takes; or a folder with a ``manifest.json`` elsewhere: ``https://host/set/``,
            ``s3://bucket/set/``, any protocol of fsspec, or a command such as ``pipe:curl -sfL https://host/set/{name}``.
        cache_dir: Folder on a disk of the node for what is fetched.
        max_bytes: Cap on it; None for none.
        progress: Told after each shard that is indexed.
        patience: How often a transfer is tried.

    Raises:
        ConfigError: The shards must be fetched and ``cache_dir`` is None, or a command has no ``{name}``.
        DataError: Nothing lies there, it cannot be fetched, or it is damaged.
    """
    manifest = _fetch_manifest(str(spec), cache_dir, patience) if is_url(str(spec)) else open_shards(spec, progress)
    if not manifest.is_remote:
        return manifest, None
    return manifest, ShardCache(manifest, _required(cache_dir, str(spec)), max_bytes=max_bytes, patience=patience)


def fetch_beside(manifest: Manifest, name: str, patience: Patience = PATIENCE) -> Path:
    """The file ``name`` that lies beside a manifest, fetched anew if the manifest was.

    Raises:
        DataError: It cannot be fetched.
    """
    path = manifest.path.parent / name
    if manifest.base is not None:
        _replace(join(manifest.base, name), path, patience)
    return path


def _fetch_manifest(spec: str, cache_dir: Path | None, patience: Patience) -> Manifest:
    base = spec.removesuffix(MANIFEST).rstrip("/")
    if base.startswith("pipe:") and "{name}" not in base:
        mend = "write {name} where the command names the file, as in 'pipe:curl -sfL https://host/set/{name}'"
        raise ConfigError("the command does not say which file it reads", where=spec, mend=mend)
    if base.endswith(".tar"):
        mend = f"index them once: python -m mmtrain data index '{spec}' --out FOLDER, and name the folder"
        raise DataError("remote shards are not indexed", where=shown(spec), mend=mend)
    # One file for each place, so that data sets do not overwrite each other's.
    folder = _required(cache_dir, spec) / "manifests" / hashlib.sha256(base.encode()).hexdigest()[:16]
    path = folder / MANIFEST
    _replace(join(base, MANIFEST), path, patience)
    return load_manifest(path, base)


def _required(cache_dir: Path | None, spec: str) -> Path:
    if cache_dir is None:
        mend = "set data.cache.dir to a folder on a disk of the node (on a cluster, not on the shared file system)"
        raise ConfigError(f"the shards of {shown(spec)} must be fetched, and nothing says where to", mend=mend)
    return cache_dir


def _replace(url: str, path: Path, patience: Patience) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        download(url, part, patience=patience)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
