from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from pairs import SHARD_SIZES
from web import Web, serve

from mmtrain.data import Manifest, ShardIndex, ShardReader, load_manifest
from mmtrain.data.fetch.open import open_data_set
from mmtrain.data.fetch.remote_index import expand_url, index_remote
from mmtrain.data.fetch.transfer import Patience
from mmtrain.errors import DataError

QUICK = Patience(retries=1, timeout=5.0, backoff=0.01)


@pytest.fixture
def web(tmp_path: Path, data_set: Manifest) -> Iterator[Web]:
    (tmp_path / "served").mkdir()
    for shard in data_set.path.parent.glob("*.tar"):  # someone else's: no index, no manifest
        shutil.copy(shard, tmp_path / "served")
    with serve(tmp_path / "served") as web:
        yield web


def test_anyones_remote_shards_become_a_data_set(web: Web, tmp_path: Path, data_set: Manifest) -> None:
    out = tmp_path / "out"
    seen: list[tuple[int, int]] = []
    pattern = f"{web.url}/pairs-{{000000..000002}}.tar"
    made = index_remote(pattern, out, progress=lambda *at: seen.append(at), patience=QUICK)
    assert made.fingerprint == data_set.fingerprint
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert sorted(path.name for path in out.iterdir() if not path.name.startswith(".")) == [
        "manifest.json",
        *(f"pairs-{number:06d}.tar.mmidx" for number in range(3)),
    ]
    manifest, cache = open_data_set(out, tmp_path / "cache", patience=QUICK)
    reader, local = ShardReader(manifest, store=cache), ShardReader(data_set)
    assert [reader.read(n) for n in range(sum(SHARD_SIZES))] == [local.read(n) for n in range(sum(SHARD_SIZES))]
    assert not [name for name in web.counts() if name.endswith(".mmidx")]  # the indexes are here


def test_indexing_goes_on_where_it_stopped(web: Web, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pattern = f"{web.url}/pairs-{{000000..000002}}.tar"
    web.faults["pairs-000002.tar"] = [404]
    with pytest.raises(DataError, match="404"):
        index_remote(pattern, out, patience=QUICK)
    (out / "incoming").mkdir()
    (out / "incoming" / "left.tar").write_bytes(b"x")  # by one that was killed
    index_remote(pattern, out, patience=QUICK)
    assert web.counts() == {"pairs-000000.tar": 1, "pairs-000001.tar": 1, "pairs-000002.tar": 2}
    assert not (out / "incoming").exists()
    index_remote(pattern, out, columns=["width"], patience=QUICK)
    assert web.counts()["pairs-000000.tar"] == 2
    assert ShardIndex(out / "pairs-000000.tar").column("width").min() > 0
    assert load_manifest(out / "manifest.json").shards[0].totals["width"] > 0


def test_a_damaged_remote_shard_is_named(web: Web, tmp_path: Path) -> None:
    shard = web.folder / "pairs-000001.tar"
    shard.write_bytes(shard.read_bytes()[:5000])
    with pytest.raises(DataError, match="truncated") as caught:
        index_remote(f"{web.url}/pairs-{{000000..000002}}.tar", tmp_path / "out", patience=QUICK)
    assert caught.value.where is not None and caught.value.where.startswith(f"{web.url}/pairs-000001.tar")
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_an_unknown_column_is_told_before_anything_is_fetched(web: Web, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no column 'widht'"):
        index_remote(f"{web.url}/pairs-{{000000..000002}}.tar", tmp_path / "out", columns=["widht"])
    assert web.requests == []


def test_ranges_expand_in_the_file_name() -> None:
    assert expand_url("s3://b/a-{08..10}.tar") == [f"s3://b/a-{number}.tar" for number in ("08", "09", "10")]
    assert expand_url("pipe:curl -sfL https://h/a-{0..1}.tar | cat") == [
        "pipe:curl -sfL https://h/a-0.tar | cat",
        "pipe:curl -sfL https://h/a-1.tar | cat",
    ]
