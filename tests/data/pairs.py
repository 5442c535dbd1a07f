"""Small real shards: 71 pictures of uneven sizes with captions and labels, in three tar files."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import simplejpeg

from mmtrain.data import Manifest, build_manifest

SHARD_SIZES = (23, 31, 17)


def write_tar(path: Path, members: Iterable[tuple[str, bytes]], format: int = tarfile.USTAR_FORMAT) -> Path:
    with tarfile.open(path, "w", format=format) as tar:
        for name, data in members:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return path


def picture(number: int) -> bytes:
    rng = np.random.default_rng(number)
    height, width = rng.integers(24, 49, 2)
    noise = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    image = np.ascontiguousarray(noise.repeat(8, 0).repeat(8, 1)[:height, :width])
    return bytes(simplejpeg.encode_jpeg(image, quality=90))


def sample(number: int) -> Mapping[str, bytes]:
    label = {"label": number % 5}
    return {"jpg": picture(number), "txt": f"picture {number}".encode(), "json": json.dumps(label).encode()}


def write_data_set(folder: Path, sizes: tuple[int, ...] = SHARD_SIZES) -> Manifest:
    folder.mkdir(parents=True, exist_ok=True)
    paths, first = [], 0
    for shard, size in enumerate(sizes):
        members = [
            (f"{number:05d}.{extension}", data)
            for number in range(first, first + size)
            for extension, data in sample(number).items()
        ]
        paths.append(write_tar(folder / f"pairs-{shard:06d}.tar", members))
        first += size
    return build_manifest(paths, folder / "manifest.json")
