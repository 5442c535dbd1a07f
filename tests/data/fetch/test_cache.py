from __future__ import annotations

import fcntl
import json
import logging
import multiprocessing
import os
import pickle
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
from pairs import SHARD_SIZES, write_data_set
from web import Web, serve

from mmtrain.data import Manifest, ShardReader
from mmtrain.data.fetch.cache import ShardCache
from mmtrain.data.fetch.open import fetch_beside, open_data_set
from mmtrain.data.fetch.transfer import Patience
from mmtrain.data.shards.index import ShardIndex, index_path
from mmtrain.data.shards.manifest import join, load_manifest, save_manifest
from mmtrain.errors import ConfigError, DataError

QUICK = Patience(retries=2, timeout=5.0, backoff=0.01)
SHARDS = [f"pairs-{number:06d}.tar" for number in range(3)]
TOTAL = sum(SHARD_SIZES)


@pytest.fixture
def web(tmp_path: Path, data_set: Manifest) -> Iterator[Web]:
    shutil.copytree(data_set.path.parent, tmp_path / "served")
    with serve(tmp_path / "served") as web:
        yield web


def open_cache(web: Web, folder: Path, max_bytes: int | None = None) -> ShardCache:
    _, cache = open_data_set(f"{web.url}/", folder, max_bytes, patience=QUICK)
    assert cache is not None
    return cache


def stored(cache: ShardCache) -> list[str]:
    return sorted(path.name.partition("-")[2] for path in (cache.folder / "shards").iterdir())


def test_a_remote_set_reads_as_the_local_one(web: Web, tmp_path: Path, data_set: Manifest) -> None:
    cache = open_cache(web, tmp_path / "cache")
    reader = ShardReader(cache.manifest, store=cache)
    local = ShardReader(data_set)
    assert cache.manifest.fingerprint == data_set.fingerprint
    for number in range(TOTAL):
        assert reader.read(number) == local.read(number)
    again = open_cache(web, tmp_path / "cache")
    assert ShardReader(again.manifest, store=again).read(70) == local.read(70)
    assert {web.counts()[name] for name in SHARDS} == {1}


def read_all(url: str, folder: Path, start: Event) -> None:
    _, cache = open_data_set(url, folder, patience=QUICK)
    assert cache is not None
    start.wait()
    reader = ShardReader(cache.manifest, store=cache)
    for number in range(0, TOTAL, 5):
        assert reader.read(number)["txt"] == f"picture {number}".encode()


def test_processes_and_threads_that_ask_at_once_download_once(web: Web, tmp_path: Path) -> None:
    web.delay = 0.05
    context = multiprocessing.get_context("fork")
    start = context.Event()
    processes = [context.Process(target=read_all, args=(web.url, tmp_path / "cache", start)) for _ in range(6)]
    for process in processes:
        process.start()
    cache = open_cache(web, tmp_path / "cache")
    reader = ShardReader(cache.manifest, store=cache)
    threads = [threading.Thread(target=reader.read, args=(number,)) for number in range(0, TOTAL, 9)]
    start.set()
    for thread in threads:
        thread.start()
    for worker in [*processes, *threads]:
        worker.join(60)
    assert [process.exitcode for process in processes] == [0] * 6
    assert {web.counts()[name] for name in SHARDS} == {1}


def test_a_failure_is_shared_by_those_who_waited_for_it(web: Web, tmp_path: Path) -> None:
    (web.folder / SHARDS[1]).unlink()
    cache = open_cache(web, tmp_path / "cache")
    web.delay = 1.0
    errors: list[DataError] = []

    def ask() -> None:
        with pytest.raises(DataError) as caught:
            cache.open(1)
        errors.append(caught.value)

    threads = [threading.Thread(target=ask) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {str(error) for error in errors} == {str(errors[0])}
    assert "HTTP 404" in str(errors[0]) and f"{web.url}/{SHARDS[1]}" in str(errors[0])
    assert web.counts()[SHARDS[1]] == 1
    web.delay = 0.0
    shutil.copy(web.folder / SHARDS[0], web.folder / SHARDS[1])
    with pytest.raises(DataError):  # another shard; but who comes later asks again
        cache.open(1)
    assert web.counts()[SHARDS[1]] > 1


def test_a_missing_shard_is_asked_for_once_in_a_while(web: Web, tmp_path: Path) -> None:
    (web.folder / SHARDS[1]).unlink()
    cache = open_cache(web, tmp_path / "cache")
    reader = ShardReader(cache.manifest, store=cache)
    for number in range(23, 54):
        with pytest.raises(DataError, match="HTTP 404"):
            reader.read(number)
        assert reader.where(number) == f"{SHARDS[1]}, sample {number}"
    assert web.counts()[SHARDS[1]] == 1
    assert reader.read(54)["__key__"] == "00054"


def test_a_killed_download_is_taken_up_by_the_next_process(web: Web, tmp_path: Path) -> None:
    web.faults[SHARDS[0]] = ["stall"]
    cache = open_cache(web, tmp_path / "cache")
    context = multiprocessing.get_context("fork")
    process = context.Process(target=cache.open, args=(0,))
    process.start()
    incoming = cache.folder / "incoming"
    while not any(path.stat().st_size for path in incoming.glob("*.tar.*")):
        time.sleep(0.01)
    sweeper = open_cache(web, tmp_path / "cache")  # a download under way is left alone
    assert len(list(incoming.glob("*.tar.*"))) == 1
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert ShardReader(sweeper.manifest, store=sweeper).read(0)["__key__"] == "00000"
    assert web.requests[-1][0] == SHARDS[0] or web.requests[-2][0] == SHARDS[0]
    assert any(wanted for _, wanted in web.requests)  # it went on where the killed one stopped
    assert list(incoming.iterdir()) == []


def test_what_killed_processes_left_is_swept(web: Web, tmp_path: Path) -> None:
    cache = open_cache(web, tmp_path / "cache")
    left = cache.folder / "incoming" / "0123456789abcdef-a.tar.1000"
    left.write_bytes(b"x")
    open_cache(web, tmp_path / "cache")
    assert not left.exists()


def test_a_cached_shard_damaged_on_disk_is_fetched_again(web: Web, tmp_path: Path) -> None:
    cache = open_cache(web, tmp_path / "cache")
    cache.open(0)[0].close()
    (path,) = (cache.folder / "shards").iterdir()
    os.truncate(path, 1000)
    assert ShardReader(cache.manifest, store=cache).read(0)["__key__"] == "00000"
    assert web.counts()[SHARDS[0]] == 2


def test_indexes_are_fetched_without_their_shards(web: Web, tmp_path: Path, data_set: Manifest) -> None:
    cache = open_cache(web, tmp_path / "cache")
    assert [cache.index(shard).key(0) for shard in range(3)] == ["00000", "00023", "00054"]
    assert stored(cache) == []


def test_all_indexes_are_fetched_at_once_for_a_choice_by_columns(tmp_path: Path) -> None:
    write_data_set(tmp_path / "served", (2,) * 12)
    with serve(tmp_path / "served", delay=0.2) as web:
        cache = open_cache(web, tmp_path / "cache")
        seen: list[tuple[int, int]] = []
        cache.fetch_indexes(lambda *at: seen.append(at))
        assert seen == [(done, 12) for done in range(1, 13)]
        assert web.most_at_once > 4
        assert [cache.index(shard).key(0) for shard in (0, 11)] == ["00000", "00022"]
        assert set(web.counts().values()) == {1}
        assert stored(cache) == []


@pytest.mark.parametrize("fault", ["none", "another", "damaged"])
def test_an_index_that_is_not_there_or_does_not_fit_is_made_here(web: Web, tmp_path: Path, fault: str) -> None:
    remote = index_path(web.folder / SHARDS[1])
    if fault == "none":
        remote.unlink()
    elif fault == "another":
        shutil.copy(index_path(web.folder / SHARDS[0]), remote)
    else:
        remote.write_bytes(remote.read_bytes()[:-100])
    cache = open_cache(web, tmp_path / "cache")
    assert cache.index(1).key(4) == "00027"
    assert ShardReader(cache.manifest, store=cache).read(27)["__key__"] == "00027"
    assert web.counts()[SHARDS[1]] == 1


def test_the_cap_holds_and_evicts_what_is_finished_first(web: Web, tmp_path: Path) -> None:
    sizes = [(web.folder / name).stat().st_size for name in SHARDS]
    cache = open_cache(web, tmp_path / "cache", max_bytes=sizes[0] + sizes[1] + sizes[2] // 2)
    cache.open(1)[0].close()
    time.sleep(0.02)
    cache.open(0)[0].close()
    cache.finish(0)  # used after shard 1, but needed no more
    cache.open(2)[0].close()
    assert stored(cache) == [SHARDS[1], SHARDS[2]]
    cache.open(0)[0].close()  # none is finished: that used the longest ago
    assert stored(cache) == [SHARDS[0], SHARDS[2]]


def hold(
    cache: ShardCache, shard: int, held: multiprocessing.synchronize.Event, done: multiprocessing.synchronize.Event
) -> None:
    file, _ = cache.open(shard)
    held.set()
    done.wait(60)
    file.close()


def test_a_shard_in_use_by_another_process_is_not_evicted_and_the_cap_says_so(
    web: Web, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = open_cache(web, tmp_path / "cache", max_bytes=1000)
    context = multiprocessing.get_context("fork")
    held, done = context.Event(), context.Event()
    process = context.Process(target=hold, args=(cache, 0, held, done))
    process.start()
    assert held.wait(60)
    with caplog.at_level(logging.WARNING):
        files = [cache.open(shard)[0] for shard in (1, 2)]
    assert stored(cache) == SHARDS
    assert len(caplog.records) == 1
    assert "Set data.cache.max_gb=" in caplog.text
    done.set()
    process.join()
    for file in files:
        file.close()
    cache.open(1)[0].close()
    shutil.rmtree(cache.folder / "shards")
    (cache.folder / "shards").mkdir()
    for shard in (0, 1, 2):
        cache.open(shard)[0].close()
    assert stored(cache) == [SHARDS[2]]


def test_a_reader_lets_idle_shards_go_so_that_they_can_be_evicted(tmp_path: Path) -> None:
    write_data_set(tmp_path / "served", (2,) * 14)
    with serve(tmp_path / "served") as web:
        size = (tmp_path / "served" / SHARDS[0]).stat().st_size
        cache = open_cache(web, tmp_path / "cache", max_bytes=7 * size)
        reader = ShardReader(cache.manifest, store=cache)
        for number in range(28):
            reader.read(number)
        assert len(stored(cache)) == 7


def test_data_sets_share_a_folder_and_its_cap(web: Web, tmp_path: Path) -> None:
    write_data_set(tmp_path / "other", (4, 5))
    with serve(tmp_path / "other") as other:
        size = (tmp_path / "other" / SHARDS[0]).stat().st_size
        first, second = open_cache(web, tmp_path / "cache"), open_cache(other, tmp_path / "cache", size + 100)
        for shard in range(3):
            first.open(shard)[0].close()
        assert ShardReader(second.manifest, store=second).read(0)["__key__"] == "00000"
        assert stored(second) == [SHARDS[0]]
        assert first.index(0).info.samples == 23


def test_a_cache_may_be_pickled(web: Web, tmp_path: Path) -> None:
    cache = pickle.loads(pickle.dumps(open_cache(web, tmp_path / "cache", 10**9)))
    assert ShardReader(cache.manifest, store=cache).read(0)["__key__"] == "00000"


def test_rows_may_be_urls_of_different_places(web: Web, tmp_path: Path, data_set: Manifest) -> None:
    here = tmp_path / "mixed"
    here.mkdir()
    shutil.copy(data_set.shard_path(0), here)
    shutil.copy(index_path(data_set.shard_path(0)), here)
    names = [
        SHARDS[0],
        f"{web.url}/{SHARDS[1]}?signature=x",
        f"pipe:cat {web.folder}/{SHARDS[2]} | cat",
    ]
    rows = [
        type(info)(name, info.samples, info.bytes, info.sha256)
        for name, info in zip(names, data_set.shards, strict=True)
    ]
    saved = save_manifest(here / "manifest.json", rows)
    assert saved.fingerprint == data_set.fingerprint  # the same samples, wherever they lie
    manifest, cache = open_data_set(here, tmp_path / "cache", patience=QUICK)
    reader = ShardReader(manifest, store=cache)
    assert [reader.read(number) for number in range(TOTAL)] == [ShardReader(data_set).read(n) for n in range(TOTAL)]
    with pytest.raises(DataError, match="no cache"):
        ShardReader(manifest)
    with pytest.raises(ConfigError) as caught:
        open_data_set(here)
    assert "data.cache.dir" in str(caught.value)


def test_a_set_is_read_through_a_command(web: Web, tmp_path: Path) -> None:
    spec = f"pipe:curl -sfL '{web.url}/{{name}}'" if shutil.which("curl") else f"pipe:cat '{web.folder}/{{name}}'"
    manifest, cache = open_data_set(spec, tmp_path / "cache", patience=QUICK)
    assert ShardReader(manifest, store=cache).read(70)["__key__"] == "00070"
    with pytest.raises(ConfigError, match="which file"):
        open_data_set("pipe:cat manifest.json", tmp_path / "cache")


def test_a_fetched_manifest_runs_no_commands(web: Web, tmp_path: Path, data_set: Manifest) -> None:
    rows = [
        type(info)(f"pipe:touch {tmp_path}/hacked; cat {info.name}", info.samples, info.bytes, info.sha256)
        for info in data_set.shards
    ]
    save_manifest(web.folder / "manifest.json", rows)
    with pytest.raises(DataError, match="names commands"):
        open_data_set(web.url, tmp_path / "cache", patience=QUICK)


def test_a_fetched_manifest_cannot_name_files_outside(web: Web, tmp_path: Path) -> None:
    content = json.loads((web.folder / "manifest.json").read_text())
    for row in content["shardlist"]:
        row["url"] = "../../" + row["url"]
    (web.folder / "manifest.json").write_text(json.dumps(content))
    cache = open_cache(web, tmp_path / "cache")
    cache.open(0)[0].close()
    assert web.counts()[SHARDS[0]] == 1
    assert stored(cache) == [SHARDS[0]]


def test_shards_of_one_name_are_refused(tmp_path: Path, data_set: Manifest) -> None:
    info = data_set.shards[0]
    rows = [type(info)(f"https://host/{place}/0.tar", 1, 1, place * 64) for place in "ab"]
    with pytest.raises(DataError, match=r"2 shards of a data set are called 0\.tar"):
        save_manifest(tmp_path / "manifest.json", rows)


def test_remote_shards_without_a_manifest_say_how_to_index_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not indexed") as caught:
        open_data_set("https://host/set/{000..003}.tar", tmp_path)
    assert "data index" in str(caught.value)


def test_a_remote_folder_without_a_manifest_is_named(web: Web, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="404") as caught:
        open_data_set(f"{web.url}/nothing", tmp_path, patience=QUICK)
    assert caught.value.where == f"{web.url}/nothing/manifest.json"


def test_a_folders_signature_is_sent_with_each_file(web: Web, tmp_path: Path) -> None:
    manifest, cache = open_data_set(f"{web.url}/?signature=x", tmp_path, patience=QUICK)
    assert ShardReader(manifest, store=cache).read(0)["__key__"] == "00000"
    assert join("https://host/set/?signature=x", "a b.tar") == "https://host/set/a%20b.tar?signature=x"


def test_files_beside_a_remote_manifest_are_fetched(web: Web, tmp_path: Path, data_set: Manifest) -> None:
    (web.folder / "classes.json").write_text("[1]")
    cache = open_cache(web, tmp_path / "cache")
    assert fetch_beside(cache.manifest, "classes.json", QUICK).read_text() == "[1]"
    assert fetch_beside(data_set, "classes.json") == data_set.path.parent / "classes.json"


def test_totals_of_columns_stay_in_the_manifest(tmp_path: Path, data_set: Manifest) -> None:
    info = data_set.shards[0]
    row = type(info)(info.name, info.samples, info.bytes, info.sha256, {"num_tokens": 7})
    save_manifest(tmp_path / "manifest.json", [row])
    assert load_manifest(tmp_path / "manifest.json").shards[0].totals == {"num_tokens": 7}


def test_an_evictor_that_holds_a_shard_makes_its_opener_wait_and_fetch_it(web: Web, tmp_path: Path) -> None:
    cache = open_cache(web, tmp_path / "cache")
    cache.open(0)[0].close()
    (path,) = (cache.folder / "shards").iterdir()
    with path.open("rb") as evictor:
        fcntl.flock(evictor, fcntl.LOCK_EX)
        opened: list[int] = []
        thread = threading.Thread(target=lambda: opened.append(cache.open(0)[0].fileno()))
        thread.start()
        time.sleep(0.1)
        path.unlink()
    thread.join(30)
    assert opened and web.counts()[SHARDS[0]] == 2


def test_an_index_in_the_cache_is_that_of_its_shard(web: Web, tmp_path: Path, data_set: Manifest) -> None:
    cache = open_cache(web, tmp_path / "cache")
    file, index = cache.open(2)
    file.close()
    assert ShardIndex.read(index).info == data_set.shards[2]
