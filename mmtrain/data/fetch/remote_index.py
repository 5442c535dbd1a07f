"""Indexes shards that lie elsewhere: each is read once, and only its index and the manifest stay here."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from filelock import FileLock

from mmtrain.data.fetch.transfer import PATIENCE, Patience, download
from mmtrain.data.shards.build import expand
from mmtrain.data.shards.columns import columns_named
from mmtrain.data.shards.index import ShardIndex, index_path, write_index
from mmtrain.data.shards.manifest import MANIFEST, Manifest, Progress, file_name, save_manifest
from mmtrain.data.shards.sidecar import ShardInfo
from mmtrain.data.shards.tar import refuse_compressed
from mmtrain.errors import DataError

_DOWNLOADS = 4  # at a time; each takes the disk of one shard


def index_remote(
    pattern: str,
    out: Path,
    *,
    columns: Sequence[str] = (),
    progress: Progress | None = None,
    patience: Patience = PATIENCE,
) -> Manifest:
    """Makes a data set of anyone's shards, where they lie.

    Each shard is downloaded, indexed and deleted. What is indexed already is not read again: an interrupted call goes
    on where it stopped.

    Args:
        pattern: URL or command of the shards, such as ``https://host/set/{00000..00099}.tar``. Ranges stand in the file
            name.
        out: Folder for the manifest and the indexes.
        columns: Names of `mmtrain.data.shards.columns.COLUMNS` that each index shall have.
        progress: Told after each shard.
        patience: How often each download is tried.

    Raises:
        DataError: A shard cannot be fetched, is compressed or damaged; or there is no such column.
    """
    columns_named(columns)
    urls = expand_url(pattern)
    out.mkdir(parents=True, exist_ok=True)
    incoming = out / "incoming"
    infos: list[ShardInfo] = []
    with FileLock(out / ".index.lock"):
        shutil.rmtree(incoming, ignore_errors=True)  # left by one that was killed
        incoming.mkdir()
        try:
            with ThreadPoolExecutor(min(_DOWNLOADS, len(urls))) as pool:
                work = [pool.submit(_index, url, out, incoming, columns, patience) for url in urls]
                try:
                    for done in work:
                        infos.append(done.result())
                        if progress is not None:
                            progress(len(infos), len(urls))
                finally:
                    pool.shutdown(cancel_futures=True)
        finally:
            shutil.rmtree(incoming, ignore_errors=True)
        return save_manifest(out / MANIFEST, infos)


def expand_url(pattern: str) -> list[str]:
    """The URLs that a pattern names: ``s3://b/{08..10}.tar`` -> ``s3://b/08.tar``, ``s3://b/09.tar``, ..."""
    folder, slash, name = pattern.rpartition("/")
    return [f"{folder}{slash}{path.name}" for path in expand(Path(name))]


def _index(url: str, out: Path, incoming: Path, columns: Sequence[str], patience: Patience) -> ShardInfo:
    shard = out / file_name(url)
    refuse_compressed(shard)
    try:
        index = ShardIndex(shard)
        if set(columns) <= set(index.columns):
            return replace(index.info, name=url)
    except DataError:  # none, or a damaged one
        pass
    part = incoming / shard.name
    download(url, part, patience=patience)
    try:
        info = write_index(part, columns)
    except DataError as error:
        raise DataError(error.message, where=f"{url}: {error.where}", mend="mend the shard where it lies") from None
    finally:
        part.unlink()
    index_path(part).replace(index_path(shard))
    return replace(info, name=url)
