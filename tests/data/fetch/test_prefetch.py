from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from pairs import write_data_set
from web import Web, serve

from mmtrain.data import EpochPlan, Manifest, ShardReader, Share
from mmtrain.data.fetch.cache import ShardCache
from mmtrain.data.fetch.open import open_data_set
from mmtrain.data.fetch.prefetch import Prefetcher
from mmtrain.data.fetch.transfer import Patience

SHARDS = 16
PER_SHARD = 40
LOCAL = 50


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    write_data_set(folder, (PER_SHARD,) * SHARDS)
    return folder


@pytest.fixture
def web(folder: Path) -> Iterator[Web]:
    with serve(folder) as web:
        yield web


def open_reader(web: Web, folder: Path, max_bytes: int | None = None) -> ShardReader:
    patience = Patience(retries=1, backoff=0.01)
    manifest, cache = open_data_set(web.url, folder, max_bytes, patience=patience)
    return ShardReader(manifest, store=cache)


def make_plan(manifest: Manifest, lanes: int = 2) -> EpochPlan:
    return EpochPlan(manifest.sizes, global_batch_size=8, lanes=lanes, window=16)


def cached(reader: ShardReader) -> list[str]:
    assert isinstance(reader.store, ShardCache)
    return sorted(path.name.partition("-")[2] for path in (reader.store.folder / "shards").iterdir())


def tars(web: Web) -> list[str]:
    return [name for name, _ in web.requests if name.endswith(".tar")]


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.01)


def in_order_of_use(reader: ShardReader, plan: EpochPlan, start: int) -> list[str]:
    seen: dict[int, None] = {}
    for step in range(start, len(plan)):
        for shard in reader.shards_of(plan.share(0, step).sample).tolist():
            seen.setdefault(shard)
    return [reader.manifest.shards[shard].name for shard in seen]


@pytest.mark.parametrize("start", [0, 33])
def test_the_shards_that_come_next_are_fetched_in_order_of_use(web: Web, tmp_path: Path, start: int) -> None:
    reader = open_reader(web, tmp_path)
    plan = make_plan(reader.manifest)
    now = {reader.manifest.shards[shard].name for shard in reader.shards_of(plan.share(0, start).sample).tolist()}
    with closing(Prefetcher(plan, [reader], shards_ahead=3, threads=1)) as prefetcher:
        prefetcher.advance(0, start)
        until(lambda: len(tars(web)) >= len(now) + 3)
        time.sleep(0.1)
    assert len(tars(web)) <= len(now) + 4  # the step that brings the third may bring a fourth
    assert tars(web) == in_order_of_use(reader, plan, start)[: len(tars(web))]


def test_an_epoch_is_prefetched_shard_by_shard_into_the_next(web: Web, tmp_path: Path) -> None:
    reader = open_reader(web, tmp_path)
    plan = make_plan(reader.manifest)
    with closing(Prefetcher(plan, [reader], shards_ahead=2)) as prefetcher:
        for step in range(len(plan)):
            prefetcher.advance(0, step)
            needed = {reader.manifest.shards[s].name for s in reader.shards_of(plan.share(0, step).sample).tolist()}
            until(lambda needed=needed: needed <= set(cached(reader)))  # type: ignore[misc]
        prefetcher.advance(1, 0)
        prefetcher.advance(1, 1)
    assert sorted(tars(web)) == [shard.name for shard in reader.manifest.shards]


def wait(reader: ShardReader, plan: EpochPlan, prefetcher: Prefetcher | None) -> float:
    """Seconds spent waiting for samples in an epoch whose steps take 20 ms."""
    waited = 0.0
    for step in range(len(plan)):
        if prefetcher is not None:
            prefetcher.advance(0, step)
        began = time.perf_counter()
        for number in plan.share(0, step).sample:
            reader.read(number)
        waited += time.perf_counter() - began
        time.sleep(0.02)
    return waited


def test_prefetching_hides_most_of_the_wait(
    web: Web, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    web.delay = 0.06
    on_demand = open_reader(web, tmp_path / "on_demand")
    plan = make_plan(on_demand.manifest)
    waited = wait(on_demand, plan, None)
    reader = open_reader(web, tmp_path / "prefetched")
    with closing(Prefetcher(plan, [reader])) as prefetcher:
        assert wait(reader, plan, prefetcher) <= 0.3 * waited
    assert set(web.counts().values()) == {2}  # the manifest, each shard and each index, once a cache


def test_the_cap_holds_over_epochs_and_what_is_left_is_used_again(tmp_path: Path) -> None:
    write_data_set(tmp_path / "served", (20,) * 48)
    size = max(path.stat().st_size for path in (tmp_path / "served").glob("*.tar"))
    with serve(tmp_path / "served") as web:
        reader = open_reader(web, tmp_path / "cache", max_bytes=24 * size)
        plan = make_plan(reader.manifest, lanes=1)
        with closing(Prefetcher(plan, [reader], shards_ahead=2)) as prefetcher:
            for epoch in range(2):
                for step in range(len(plan)):
                    prefetcher.advance(epoch, step)
                    for number in plan.share(epoch, step).sample:
                        reader.read(number)
                    assert len(cached(reader)) <= 24
                    time.sleep(0.002)
        assert len(tars(web)) < 48 + 40, len(tars(web))


def test_a_shard_that_cannot_be_fetched_stops_nothing(web: Web, tmp_path: Path) -> None:
    reader = open_reader(web, tmp_path)
    plan = make_plan(reader.manifest)
    order = in_order_of_use(reader, plan, 0)
    web.faults[order[1]] = [404]
    with closing(Prefetcher(plan, [reader], shards_ahead=3, threads=1)) as prefetcher:
        prefetcher.advance(0, 0)
        until(lambda: order[2] in cached(reader))
    assert order[1] not in cached(reader)


def test_it_may_be_closed_moved_back_and_used_again(web: Web, tmp_path: Path) -> None:
    reader = open_reader(web, tmp_path)
    plan = make_plan(reader.manifest)
    before = threading.active_count()
    prefetcher = Prefetcher(plan, [reader])
    prefetcher.advance(0, 60)
    prefetcher.advance(0, 0)
    until(lambda: in_order_of_use(reader, plan, 0)[0] in cached(reader))
    prefetcher.close()
    prefetcher.close()
    until(lambda: threading.active_count() <= before)
    prefetcher.advance(0, 30)
    until(lambda: in_order_of_use(reader, plan, 30)[0] in cached(reader))
    prefetcher.close()


def test_few_shards_do_not_have_it_read_the_plan_forever(web: Web, tmp_path: Path) -> None:
    steps_read: list[int] = []

    class CountingPlan(EpochPlan):
        def share(self, epoch: int, step: int) -> Share:
            steps_read.append(step)
            return super().share(epoch, step)

    reader = open_reader(web, tmp_path)
    plan = CountingPlan(reader.manifest.sizes, global_batch_size=8, lanes=2, window=16)
    with closing(Prefetcher(plan, [reader], shards_ahead=100)) as prefetcher:
        prefetcher.advance(0, 0)
        until(lambda: len(cached(reader)) == SHARDS)
        time.sleep(0.1)
    assert len(steps_read) <= len(plan)


def test_only_the_remote_data_sets_of_a_mixture_are_prefetched(
    web: Web, tmp_path: Path, data_set: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[int] = []
    local = ShardReader(data_set)
    monkeypatch.setattr(local.store, "open", opened.append)

    class MixedPlan(EpochPlan):
        """The first half of each batch comes from the first, local data set, all of it from its first shard."""

        def share(self, epoch: int, step: int) -> Share:
            share = super().share(epoch, step)
            source = np.arange(len(share)) // 4
            return Share(source, share.epoch, np.where(source == 0, LOCAL, share.sample), share.weight)

    reader = open_reader(web, tmp_path)
    plan = MixedPlan(reader.manifest.sizes, seed=30, global_batch_size=8, lanes=2, window=16)
    needed = [reader.shards_of(plan.share(0, step).sample[4:]) for step in range(45)]  # more than come into sight
    remote = {reader.manifest.shards[shard].name for shard in np.concatenate(needed).tolist()}
    other = reader.manifest.shards[int(reader.shards_of(np.array(LOCAL)))].name
    assert other not in remote  # where the sample of the local set would lie, were it the remote one's
    with closing(Prefetcher(plan, [local, reader], shards_ahead=1)) as prefetcher:
        for step in range(20):
            prefetcher.advance(0, step)
            now = {reader.manifest.shards[shard].name for shard in needed[step].tolist()}
            until(lambda now=now: now <= set(cached(reader)))  # type: ignore[misc]
    assert other not in tars(web)
    assert opened == []


def test_the_cache_is_told_which_shards_are_finished(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = open_reader(web, tmp_path)
    # Few samples a step out of many shards in use: each is missing from many a step.
    plan = EpochPlan(reader.manifest.sizes, global_batch_size=2, lanes=2, window=160)
    finished: list[int] = []
    monkeypatch.setattr(reader.store, "finish", finished.append)
    uses = [set(reader.shards_of(plan.share(0, step).sample).tolist()) for step in range(len(plan))]
    with closing(Prefetcher(plan, [reader], shards_ahead=2)) as prefetcher:
        prefetcher.advance(0, 0)
        for step in range(1, 200):
            prefetcher.advance(0, step)
            past = set.union(*uses[:step]) - set.union(*uses[step:])
            until(lambda past=past: past <= set(finished))  # type: ignore[misc]
            assert not set(finished) & uses[step]


@pytest.mark.slow
def test_a_stalled_download_does_not_hold_up_the_end_of_the_program(web: Web, tmp_path: Path) -> None:
    for shard in range(SHARDS):
        web.faults[f"pairs-{shard:06d}.tar"] = ["stall"]
    program = f"""
        import time
        from pathlib import Path
        from mmtrain.data import EpochPlan, ShardReader
        from mmtrain.data.fetch.open import open_data_set
        from mmtrain.data.fetch.prefetch import Prefetcher
        manifest, cache = open_data_set({web.url!r}, Path({str(tmp_path)!r}))
        plan = EpochPlan(manifest.sizes, global_batch_size=8, lanes=2, window=16)
        Prefetcher(plan, [ShardReader(manifest, store=cache)]).advance(0, 0)
        time.sleep(0.5)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], timeout=25, capture_output=True, check=True)
    assert done.stderr == b""
    assert tars(web)


def test_numbers_of_shards_are_found_for_arrays_of_samples(web: Web, tmp_path: Path) -> None:
    reader = open_reader(web, tmp_path)
    assert reader.shards_of(np.array([0, 39, 40, 639])).tolist() == [0, 0, 1, 15]
