"""Writing shards: standard WebDataset tar files whose bytes depend on their samples alone."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

Sample = tuple[str, Mapping[str, bytes]]
"""A key, and the sample's bytes by extension, as in ``("1f600_twemoji", {"png": ..., "txt": ...})``."""


def write_shards(samples: Sequence[Sample], folder: Path, name: str, samples_per_shard: int) -> list[Path]:
    """Writes ``samples``, in order, into ``folder/name-000000.tar`` and so on.

    Returns:
        The shards' paths, in order. The last shard may be smaller.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for start in range(0, len(samples), samples_per_shard):
        path = folder / f"{name}-{start // samples_per_shard:06d}.tar"
        _write_shard(samples[start : start + samples_per_shard], path)
        paths.append(path)
    return paths


def _write_shard(samples: Sequence[Sample], path: Path) -> None:
    # A fresh TarInfo bears no time, owner or host; USTAR adds no extended headers of its own.
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as shard:
        for key, members in samples:
            assert "." not in key, f"{key}: all after the first dot of a member's name is its extension"
            for extension, data in members.items():
                header = tarfile.TarInfo(f"{key}.{extension}")
                header.size = len(data)
                shard.addfile(header, io.BytesIO(data))
