"""Shards that other programs wrote are read as those programs read them: same keys, extensions, bytes and order."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import webdataset
from archives import LONG_100, LONG_255
from pairs import picture, write_tar

from mmtrain.data import Manifest, ShardReader
from mmtrain.data.shards.build import index_shards

ODD = [
    ("__meta__/info.json", b"{}"),
    ("__skipped__", b"x"),
    ("a/b/0001.JPG", b"1"),
    ("a/b/0001.seg.png", b"22"),
    ("a/b/0002.jpg", b""),
    ("a/b/0002.cls", b"7"),
    ("noext", b"x"),
    (".hidden.jpg", b"h"),
    ("dir/.hidden.jpg", b"h"),
    ("dir.v1/c.txt", b"c"),
    ("dir.v1/c.", b"no extension"),
    ("../../escape.txt", b"names are not paths"),
    (LONG_100 + ".txt", b"long"),
    (LONG_100 + ".cls", b"3"),
    ("süß 🙂/ñ.txt", "ñ".encode()),
]
LONGER = [(LONG_255 + ".txt", b"longer"), ("g/" * 200 + "h.txt", b"deep")]


def by_webdataset(*paths: Path) -> list[dict[str, Any]]:
    samples = webdataset.WebDataset([str(path) for path in paths], shardshuffle=False, empty_check=False)
    return [
        {name: value for name, value in sample.items() if name not in ("__url__", "__local_path__")}
        for sample in samples
    ]


def by_us(spec: Path) -> list[dict[str, Any]]:
    manifest: Manifest = index_shards(spec)
    reader = ShardReader(manifest)
    return [reader.read(sample) for sample in range(len(reader))]


def files_of(*paths: Path) -> list[bytes]:
    """The content of each regular file that ``tarfile`` finds and webdataset would take, in order."""
    files = []
    for path in paths:
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member) if member.isreg() else None
                if file is not None and "." in Path(member.name).name.lstrip(".") and member.name != ".hidden.jpg":
                    files.append(file.read())
    return files


def add_others(path: Path, format: int) -> None:
    """A directory and links, which hold no data, in front of what there is."""
    with tarfile.open(path, "a", format=format) as tar:
        for name, kind in (("dir", tarfile.DIRTYPE), ("z.jpg", tarfile.SYMTYPE), ("z.txt", tarfile.LNKTYPE)):
            header = tarfile.TarInfo(name)
            header.type, header.linkname = kind, "a/b/0001.JPG" if kind != tarfile.DIRTYPE else ""
            tar.addfile(header)
        header = tarfile.TarInfo("last.txt")
        header.size = 4
        tar.addfile(header, io.BytesIO(b"last"))


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_shards_of_tarfile_are_read_as_webdataset_reads_them(tmp_path: Path, format: int) -> None:
    path = write_tar(tmp_path / "odd.tar", ODD + (LONGER if format != tarfile.USTAR_FORMAT else []), format)
    add_others(path, format)
    read = by_us(path)
    assert read == by_webdataset(path)
    keys = ["a/b/0001", "a/b/0002", "dir/", "dir.v1/c", "../../escape", LONG_100, "süß 🙂/ñ"]
    longer = [LONG_255, "g/" * 200 + "h"] if format != tarfile.USTAR_FORMAT else []
    assert [sample["__key__"] for sample in read] == [*keys, *longer, "last"]
    assert not (tmp_path.parent.parent / "escape.txt").exists()


def test_shards_of_webdatasets_writer_are_read(tmp_path: Path) -> None:
    with webdataset.ShardWriter(str(tmp_path / "%06d.tar"), maxcount=4, verbose=0) as writer:
        for number in range(10):
            caption = {"txt": f"caption {number}", "json": {"n": number}}
            writer.write({"__key__": f"k/{number:03d}", "npy": np.arange(number + 1), "seg.PNG": b"p", **caption})
    paths = sorted(tmp_path.glob("*.tar"))
    assert len(paths) == 3
    read = by_us(tmp_path / "{000000..000002}.tar")
    assert read == by_webdataset(*paths)
    assert len(read) == 10 and [*read[0]] == ["__key__", "json", "npy", "seg.png", "txt"]
    flat = [value for sample in read for name, value in sample.items() if name != "__key__"]
    assert flat == files_of(*paths)


def img2dataset_row(number: int) -> Mapping[str, object]:
    return {"key": f"{number:09d}", "caption": f"picture {number}", "status": "success", "width": 32, "height": 32}


def test_a_folder_of_img2dataset_is_read(tmp_path: Path) -> None:
    for shard in range(2):
        rows = [img2dataset_row(shard * 10_000 + number) for number in range(5)]
        members = [
            (f"{row['key']}.{extension}", data)
            for number, row in enumerate(rows)
            for extension, data in (
                ("jpg", picture(number)),
                ("txt", str(row["caption"]).encode()),
                ("json", json.dumps(row, indent=4).encode()),
            )
        ]
        write_tar(tmp_path / f"{shard:05d}.tar", members, tarfile.PAX_FORMAT)
        (tmp_path / f"{shard:05d}_stats.json").write_text(json.dumps({"count": 5, "successes": 5}))
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / f"{shard:05d}.parquet")
    paths = sorted(tmp_path.glob("*.tar"))
    read = by_us(tmp_path)
    assert read == by_webdataset(*paths)
    assert [sample["__key__"] for sample in read] == [f"{s * 10_000 + n:09d}" for s in range(2) for n in range(5)]
    assert [value for sample in read for name, value in sample.items() if name != "__key__"] == files_of(*paths)
