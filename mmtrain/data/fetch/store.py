"""Where a reader opens shards."""

from __future__ import annotations

from io import FileIO
from pathlib import Path
from typing import Protocol

from mmtrain.data.shards.index import index_path
from mmtrain.data.shards.manifest import Manifest
from mmtrain.errors import DataError

_RESTORE = "restore the shard"


class ShardStore(Protocol):
    """Opens the shards of a data set.

    Attributes:
        manifest: The data set.
        mend: What to do about a damaged shard.
        capped: Shards must not be held open longer than they are needed.
    """

    manifest: Manifest
    mend: str
    capped: bool

    def open(self, shard: int) -> tuple[FileIO, Path]:
        """The shard, and the file of its index.

        Raises:
            DataError: It is missing, or cannot be fetched.
        """


class LocalStore:
    """The shards that lie beside their manifest.

    Raises:
        DataError: They lie elsewhere.
    """

    mend = _RESTORE
    capped = False

    def __init__(self, manifest: Manifest) -> None:
        if manifest.is_remote:
            mend = "set data.cache.dir to a folder on the node's disk"
            raise DataError("the shards must be fetched, and there is no cache", where=str(manifest.path), mend=mend)
        self.manifest = manifest

    def open(self, shard: int) -> tuple[FileIO, Path]:
        """See `ShardStore`."""
        return open_beside(self.manifest, shard)


def open_beside(manifest: Manifest, shard: int) -> tuple[FileIO, Path]:
    """Opens a shard that lies beside its manifest, and names its index.

    Raises:
        DataError: It is missing or cannot be opened.
    """
    path = manifest.shard_path(shard)
    try:
        return FileIO(path), index_path(path)
    except FileNotFoundError:
        raise DataError("a shard is missing", where=str(path), mend=_RESTORE) from None
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise DataError(f"a shard cannot be opened: {error}", where=str(path), mend=_RESTORE) from None
