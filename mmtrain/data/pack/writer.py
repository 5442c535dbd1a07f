"""Writing a shard from a stream of samples: USTAR without times or owners, so that equal samples give equal bytes."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterable
from pathlib import Path

from mmtrain.data.shards.write import Sample

_NAME_BYTES = 100
"""Of a member's name in a USTAR header, without the prefix that some readers overlook."""


def write_shard(samples: Iterable[Sample], path: Path) -> int:
    """Writes ``samples`` to ``path`` and waits until they are on the disk; holds one sample at a time.

    Returns:
        The number of samples.
    """
    count = 0
    with path.open("wb") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as shard:
            for key, members in samples:
                assert "." not in key, f"{key}: all after the first dot of a member's name is its extension"
                for extension, data in members.items():
                    header = tarfile.TarInfo(f"{key}.{extension}")
                    assert len(header.name.encode()) <= _NAME_BYTES, header.name
                    header.size = len(data)
                    shard.addfile(header, io.BytesIO(data))
                count += 1
        file.flush()
        os.fsync(file.fileno())
    return count
