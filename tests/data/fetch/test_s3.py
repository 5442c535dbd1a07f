"""Against a server that speaks S3: moto's, in a process of its own."""

from __future__ import annotations

import multiprocessing
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import s3fs
from pairs import SHARD_SIZES

from mmtrain.data import Manifest, ShardReader
from mmtrain.data.fetch.open import open_data_set
from mmtrain.data.fetch.remote_index import index_remote
from mmtrain.data.fetch.transfer import Patience
from mmtrain.errors import DataError

QUICK = Patience(retries=1, timeout=20.0, backoff=0.01)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(url, timeout=5).close()
                break
            except OSError:
                assert server.poll() is None, "the S3 server ended"
                time.sleep(0.1)
        yield url
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def bucket(endpoint: str, data_set: Manifest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    s3fs.S3FileSystem.clear_instance_cache()
    system = s3fs.S3FileSystem()
    system.mkdir("bucket")
    for path in data_set.path.parent.iterdir():
        system.put_file(str(path), f"bucket/set/{path.name}")
    yield "s3://bucket/set/"
    system.rm("bucket", recursive=True)


def read_sample(spec: str, folder: Path, keys: multiprocessing.SimpleQueue[str]) -> None:
    manifest, cache = open_data_set(spec, folder, patience=QUICK)
    keys.put(ShardReader(manifest, store=cache).read(70)["__key__"])


def test_a_set_in_s3_reads_as_the_local_one_also_after_a_fork(bucket: str, tmp_path: Path, data_set: Manifest) -> None:
    manifest, cache = open_data_set(bucket, tmp_path / "cache", patience=QUICK)
    reader, local = ShardReader(manifest, store=cache), ShardReader(data_set)
    assert reader.read(0) == local.read(0)
    context = multiprocessing.get_context("fork")
    keys = context.SimpleQueue()
    process = context.Process(target=read_sample, args=(bucket, tmp_path / "other", keys))
    process.start()
    process.join(60)
    assert process.exitcode == 0 and keys.get() == "00070"
    assert [reader.read(n) for n in range(sum(SHARD_SIZES))] == [local.read(n) for n in range(sum(SHARD_SIZES))]


def test_what_is_not_in_s3_is_not_tried_again_and_is_named(bucket: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"not there.*\(1 attempt\)") as caught:
        open_data_set("s3://bucket/nothing/", tmp_path, patience=QUICK)
    assert caught.value.where == "s3://bucket/nothing/manifest.json"
    s3fs.S3FileSystem().rm_file("bucket/set/pairs-000001.tar")
    manifest, cache = open_data_set(bucket, tmp_path, patience=QUICK)
    with pytest.raises(DataError, match=r"not there.*\(1 attempt\)"):
        ShardReader(manifest, store=cache).read(30)


def test_shards_in_s3_are_indexed_where_they_lie(bucket: str, tmp_path: Path, data_set: Manifest) -> None:
    made = index_remote(f"{bucket}pairs-{{000000..000002}}.tar", tmp_path / "out", patience=QUICK)
    assert made.fingerprint == data_set.fingerprint
    shutil.rmtree(tmp_path / "out" / "incoming", ignore_errors=True)
    manifest, cache = open_data_set(tmp_path / "out", tmp_path / "cache", patience=QUICK)
    assert ShardReader(manifest, store=cache).read(40)["__key__"] == "00040"
