from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from pathlib import Path

import pytest
from pairs import write_data_set, write_tar

from mmtrain.data import Manifest, ShardReader, build_manifest, load_manifest, open_shards
from mmtrain.errors import DataError


def test_a_manifest_is_a_wids_index_with_more(data_set: Manifest) -> None:
    content = json.loads(data_set.path.read_text())
    assert content["__kind__"] == "wids-shard-index-v1"
    assert content["wids_version"] == 1
    for row, path in zip(content["shardlist"], sorted(data_set.path.parent.glob("*.tar")), strict=True):
        assert (row["url"], row["filesize"]) == (path.name, path.stat().st_size)
    assert [row["nsamples"] for row in content["shardlist"]] == [23, 31, 17]
    assert load_manifest(data_set.path) == data_set


def test_the_fingerprint_tells_content_and_order_apart(tmp_path: Path) -> None:
    paths = [write_tar(tmp_path / f"{name}.tar", [(f"{name}.txt", b"1")]) for name in "ab"]
    out = tmp_path / "manifest.json"
    first = build_manifest(paths, out).fingerprint
    assert build_manifest(paths, out).fingerprint == first
    assert build_manifest(paths[::-1], out).fingerprint != first
    write_tar(paths[1], [("b.txt", b"2")])
    assert build_manifest(paths, out).fingerprint != first


def test_progress_counts_shards(tmp_path: Path) -> None:
    paths = [write_tar(tmp_path / f"{n}.tar", [("a.txt", b"1")]) for n in range(3)]
    seen: list[tuple[int, int]] = []
    build_manifest(paths, tmp_path / "manifest.json", progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def open_and_report(pattern: str, results: multiprocessing.Queue[tuple[str, int]]) -> None:
    indexed: list[int] = []
    manifest = open_shards(pattern, progress=lambda done, total: indexed.append(done))
    results.put((manifest.fingerprint, len(indexed)))


def test_processes_that_start_together_index_once(tmp_path: Path, data_set: Manifest) -> None:
    for shard in data_set.path.parent.glob("*.tar"):
        shutil.copy(shard, tmp_path)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    pattern = str(tmp_path / "pairs-{000000..000002}.tar")
    processes = [context.Process(target=open_and_report, args=(pattern, results)) for _ in range(4)]
    for process in processes:
        process.start()
    found = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert {fingerprint for fingerprint, _ in found} == {data_set.fingerprint}
    assert sorted(count for _, count in found) == [0, 0, 0, 3]


def test_a_pattern_takes_the_shards_it_names(tmp_path: Path) -> None:
    write_data_set(tmp_path, (2, 3, 4))
    assert open_shards(tmp_path / "pairs-{000001..000002}.tar").samples == 7
    assert open_shards(tmp_path / "pairs-000002.tar").samples == 4
    assert open_shards(tmp_path).samples == 9


def test_a_shard_that_a_pattern_misses_is_named(tmp_path: Path) -> None:
    write_data_set(tmp_path, (2, 3))
    with pytest.raises(DataError, match="a shard is missing") as caught:
        open_shards(tmp_path / "pairs-{000000..000002}.tar")
    assert caught.value.where == str(tmp_path / "pairs-000002.tar")


def test_a_folder_without_manifest_suggests_its_pattern(tmp_path: Path) -> None:
    write_data_set(tmp_path, (2, 3))
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(DataError, match="no manifest") as caught:
        open_shards(tmp_path)
    assert caught.value.mend is not None
    assert str(tmp_path / "pairs-{000000..000001}.tar") in caught.value.mend


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tar(tmp_path / "0.tar", [("a.txt", b"1")])
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(DataError, match="cannot be written"):
        open_shards(tmp_path / "0.tar")


def test_compressed_shards_are_refused_before_they_are_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a compressed archive"):
        open_shards(tmp_path / "{0..3}.tar.gz")


def test_a_manifest_changed_by_hand_is_refused(tmp_path: Path) -> None:
    manifest = write_data_set(tmp_path, (2, 3))
    manifest.path.write_text(manifest.path.read_text().replace('"nsamples": 3', '"nsamples": 4'))
    with pytest.raises(DataError, match="fingerprint"):
        load_manifest(manifest.path)


def test_a_shards_name_cannot_leave_the_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    manifest = write_data_set(tmp_path / "in", (2,))
    shard = manifest.shards[0]
    moved = Manifest(manifest.path, (type(shard)("../" + shard.name, shard.samples, shard.bytes, shard.sha256),), "")
    assert moved.shard_path(0) == tmp_path / "in" / shard.name
    assert len(ShardReader(moved)) == 2
