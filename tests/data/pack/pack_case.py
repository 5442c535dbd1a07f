"""Small real inputs to pack, and what a packed set holds."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import simplejpeg

from mmtrain.data.fetch.reader import ShardReader
from mmtrain.data.shards.build import open_shards
from mmtrain.data.shards.index import RawSample


def image(number: int, extension: str = "jpg", height: int = 40, width: int = 60) -> bytes:
    noise = np.random.default_rng(number).integers(0, 256, (5, 6, 3), np.uint8)
    pixels = np.ascontiguousarray(cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC))
    if extension == "jpg":
        return bytes(simplejpeg.encode_jpeg(pixels, quality=90))
    return bytes(cv2.imencode(f".{extension}", pixels)[1].tobytes())


def write_images(folder: Path, count: int = 25) -> dict[str, bytes]:
    """Images of three formats in two folders, by path, sorted."""
    images = {}
    for number in range(count):
        extension = ("jpg", "png", "webp")[number % 3]
        path = f"{'ab'[number % 2]}/pic {number}.v1.{extension}"
        images[path] = image(number, extension)
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(images[path])
    return dict(sorted(images.items()))


def write_table(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path, row_group_size=4)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


def samples(folder: Path) -> list[RawSample]:
    reader = ShardReader(open_shards(folder))
    return [reader.read(number) for number in range(len(reader))]


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every shard, index and manifest."""
    kept = [
        path for path in sorted(folder.iterdir()) if path.suffix in (".tar", ".mmidx") or path.name == "manifest.json"
    ]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}


def bad_items(folder: Path) -> list[str]:
    bad: list[str] = json.loads((folder / "pack.json").read_text())["result"]["bad"]
    return bad
