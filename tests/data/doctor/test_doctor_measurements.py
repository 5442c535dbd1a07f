from __future__ import annotations

import itertools
import multiprocessing
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import simplejpeg
from pairs import SHARD_SIZES, write_data_set, write_tar

from mmtrain.data import (
    EpochPlan,
    Loader,
    Manifest,
    PackedRows,
    RawSample,
    Samples,
    SampleSeed,
    SampleSource,
    ShardReader,
    Stream,
    TrainTransform,
    build_manifest,
)
from mmtrain.data.doctor import stages
from mmtrain.data.doctor.examine import Setting, examine
from mmtrain.data.doctor.pipeline import FirstRows, measure_pipeline, measure_transport, rows_to_measure
from mmtrain.data.doctor.smaller import measure_smaller
from mmtrain.data.doctor.stages import Item, measure_reading, measure_stages, pool, race
from mmtrain.data.loader.samples import OnFault
from mmtrain.data.loader.stream import MIN_PIECE
from mmtrain.errors import ConfigError, DataError

SECONDS = 0.05
BURNT = 0.002


class Clock:
    """A clock that only work moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        for name in ("perf_counter", "process_time"):
            monkeypatch.setattr(stages.time, name, lambda: self.now)

    def work(self, seconds: float) -> Callable[..., None]:
        def work(*arguments: object) -> None:
            self.now += seconds

        return work


def encode(raw: RawSample, seed: SampleSeed) -> Mapping[str, Any]:
    image = TrainTransform(16)(raw["jpg"], seed.generator(Stream.IMAGE))
    return {"image": image, "key": raw["__key__"]}


def burn(raw: RawSample, seed: SampleSeed) -> Mapping[str, Any]:
    until = time.process_time() + BURNT
    while time.process_time() < until:
        pass
    return {"image": np.zeros((3, 16, 16), np.uint8), "key": raw["__key__"]}


def samples(manifest: Manifest, encode: Any = encode, on_fault: OnFault = "raise") -> Samples:
    return Samples([SampleSource(ShardReader(manifest), encode)], seed=3, on_fault=on_fault)


def plan(manifest: Manifest, batch: int = 12) -> EpochPlan:
    return EpochPlan(manifest.sizes, global_batch_size=batch, seed=3, lanes=4, window=16)


def items(manifest: Manifest) -> list[Item]:
    return pool(samples(manifest), plan(manifest), 60)


def damaged(folder: Path, data_set: Manifest) -> Manifest:
    """A data set with one bit flipped in the fourth sample that the plan asks for."""
    shutil.copytree(data_set.path.parent, folder)
    manifest = Manifest(folder / data_set.path.name, data_set.shards, data_set.fingerprint)
    sample = int(plan(manifest).share(0, 0).sample[3])
    shard = int(np.searchsorted(np.cumsum(SHARD_SIZES), sample, "right"))
    payload = ShardReader(manifest).read(sample)["jpg"]
    path = manifest.shard_path(shard)
    content = bytearray(path.read_bytes())
    content[content.index(payload) + len(payload) // 2] ^= 4
    path.write_bytes(content)
    return manifest


def test_functions_take_turns_on_the_same_items() -> None:
    seen: list[tuple[str, int]] = []
    speeds = race(range(20), {name: lambda item, name=name: seen.append((name, item)) for name in "ab"}, 0)
    assert seen == [(name, item) for turn in (range(16), range(16, 20)) for name in "ab" for item in turn]
    assert {name: speed.samples for name, speed in speeds.items()} == {"a": 20, "b": 20}


def test_a_race_goes_on_for_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    speed = race(range(20), {"a": clock.work(0.1)}, 10)["a"]
    assert 10 < speed.seconds < 12
    assert speed.us_per_sample == pytest.approx(1e5)


def test_a_stage_is_charged_with_what_it_adds(data_set: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    found = items(data_set)
    clock = Clock(monkeypatch)
    times = {"decode": 0.004, "augment": 0.005, "nothing": 0.005, "tokenize": 0.007}
    speeds = measure_stages(found, {name: clock.work(seconds) for name, seconds in times.items()}, 0.1)
    us = {name: round(speed.us_per_sample) for name, speed in speeds.items()}
    assert us == {"decode": 4000, "augment": 1000, "nothing": 0, "tokenize": 2000}


def test_reading_goes_by_the_plan_and_counts_bytes(data_set: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[int] = []
    read = ShardReader.read

    def recorded(self: ShardReader, sample: int) -> RawSample:
        order.append(sample)
        return read(self, sample)

    monkeypatch.setattr(ShardReader, "read", recorded)
    source, epoch = samples(data_set), plan(data_set)
    reading = measure_reading(source, epoch, SECONDS)
    expected = [int(sample) for step in range(len(epoch)) for sample in epoch.share(0, step).sample]
    assert order[: reading.first.samples] == expected[: reading.first.samples]
    sizes = [stages.bytes_of(read(source.sources[0].reader, sample)) for sample in expected]
    assert reading.first.bytes == sum(sizes[: reading.first.samples])
    assert reading.again.bytes / reading.again.samples == pytest.approx(
        reading.first.bytes / reading.first.samples, rel=0.01
    )
    assert 0 <= reading.from_disk <= 1
    assert reading.opening_us > 0


def test_only_the_unverified_pass_does_not_verify(
    tmp_path: Path, data_set: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified: list[bool] = []
    read = ShardReader.read

    def recorded(self: ShardReader, sample: int) -> RawSample:
        verified.append(self.verify)
        return read(self, sample)

    monkeypatch.setattr(ShardReader, "read", recorded)
    reading = measure_reading(samples(data_set), plan(data_set), SECONDS)
    first, rest = verified[: reading.first.samples], verified[reading.first.samples :]
    assert all(first)
    assert rest.count(True) == reading.again.samples
    assert rest.count(False) >= reading.unverified.samples


def test_a_bad_sample_is_an_error_or_is_left_out_as_the_config_says(tmp_path: Path, data_set: Manifest) -> None:
    manifest = damaged(tmp_path / "damaged", data_set)
    with pytest.raises(DataError, match="differ from its checksum"):
        measure_reading(samples(manifest), plan(manifest), 1)
    reading = measure_reading(samples(manifest, on_fault="skip"), plan(manifest), 1)
    assert reading.first.samples == len(plan(manifest)) * 12 - 1
    assert len(pool(samples(manifest, on_fault="skip"), plan(manifest), 60)) == len(plan(manifest)) * 12 - 1


def test_no_usable_sample_is_an_error(data_set: Manifest) -> None:
    def refuse(raw: RawSample, seed: SampleSeed) -> Mapping[str, Any]:
        raise ValueError("no")

    with pytest.raises(DataError, match="none of the first samples"):
        pool(samples(data_set, refuse), plan(data_set), 60)


@pytest.mark.parametrize(("num_workers", "workers"), [(0, "process"), (2, "process"), (2, "thread")])
def test_the_pipeline_counts_whole_batches_and_the_workers_processor_time(
    data_set: Manifest, num_workers: int, workers: Any
) -> None:
    source = samples(data_set, burn)
    speed = measure_pipeline(source, plan(data_set, 16), 0.2, num_workers=num_workers, workers=workers)
    assert speed.samples % 16 == 0
    assert speed.seconds >= 0.2
    assert speed.bytes / speed.samples == 3 * 16 * 16 + 4  # the image and its weight
    # What threads burn is told by a clock that all of them move.
    expected = BURNT * 1e6 / (num_workers if workers == "thread" else 1)
    assert speed.cpu_us_per_sample > 0.6 * expected


def test_transport_prepares_nothing_and_hands_over_the_same_fields(data_set: Manifest) -> None:
    source = samples(data_set, burn)
    transport = measure_transport(source, plan(data_set, 16), 0.2, num_workers=1)
    assert transport.cpu_us_per_sample < 0.5 * BURNT * 1e6
    assert transport.bytes / transport.samples == 3 * 16 * 16 + 4


def test_a_cut_plan_has_the_first_rows_of_each_batch(data_set: Manifest) -> None:
    whole = plan(data_set)
    cut = FirstRows(whole, 5)
    assert len(cut) == len(whole)
    for step in range(len(whole)):
        np.testing.assert_array_equal(cut.share(1, step).sample, whole.share(1, step).sample[:5])


def test_a_large_batch_is_cut_to_what_workers_prepare_several_of_in_time() -> None:
    assert rows_to_measure(64, us_per_sample=100, num_workers=1, seconds=2) == 64
    assert rows_to_measure(32768, us_per_sample=1000, num_workers=4, seconds=2) == 1000
    assert rows_to_measure(32768, us_per_sample=1e6, num_workers=4, seconds=2) == 4 * MIN_PIECE  # all four get some


def test_smaller_pictures_are_measured_where_they_would_be_smaller(tmp_path: Path, data_set: Manifest) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (400, 600, 3), np.uint8)
    large = simplejpeg.encode_jpeg(noise, quality=90)
    path = write_tar(tmp_path / "large.tar", [(f"{number}.jpg", large) for number in range(12)])
    manifest = build_manifest([path], tmp_path / "manifest.json")
    smaller = measure_smaller(items(manifest), encode, 224, SECONDS)
    assert smaller is not None
    assert smaller.side == 256
    assert smaller.then.bytes < 0.6 * smaller.now.bytes
    assert smaller.now.samples == smaller.then.samples >= 12
    assert measure_smaller(items(data_set), encode, 224, SECONDS) is None


def test_an_examination_measures_the_config_and_what_it_could_be(data_set: Manifest) -> None:
    def decode(raw: RawSample, seed: SampleSeed) -> object:
        return raw["jpg"][:2]

    told: list[str] = []
    loader = Loader(samples(data_set), plan(data_set))
    setting = Setting(1, world_size=2, ranks_per_node=2, cores=6)
    found = examine(loader, setting, {"decode": decode, "rest": encode}, seconds=SECONDS, progress=told.append)
    assert list(found.stages) == ["decode", "rest", "collate"]
    assert list(found.whole) == [1, 3]  # the config's, and the cores of a rank
    assert found.configured is found.whole[1]
    assert found.other_kind is not None
    assert (found.share, found.rows) == (12, 12)
    assert "3 workers" in told
    assert all(speed.samples > 0 for speed in [*found.stages.values(), found.inline, found.transport])


def test_threads_of_opencv_are_not_taken_for_copies_into_the_batch(data_set: Manifest) -> None:
    def threaded(raw: RawSample, seed: SampleSeed) -> Mapping[str, Any]:
        # Without workers, OpenCV's threads wait for each other, and take processor time for it.
        return burn(raw, seed) if cv2.getNumThreads() > 1 else {"key": raw["__key__"]}

    before = cv2.getNumThreads()
    cv2.setNumThreads(2)
    try:
        found = examine(Loader(samples(data_set, threaded), plan(data_set)), Setting(0, cores=1), None, seconds=SECONDS)
    finally:
        cv2.setNumThreads(before)
    assert found.inline.cpu_us_per_sample > 0.5 * BURNT * 1e6
    assert found.stages["collate"].us_per_sample < 0.1 * BURNT * 1e6


def test_a_scan_tries_powers_of_two_and_all_cores(data_set: Manifest) -> None:
    loader = Loader(samples(data_set), plan(data_set))
    found = examine(loader, Setting(0, cores=3), None, seconds=SECONDS, scan=True, has_kinds=False)
    assert list(found.whole) == [1, 2, 3]
    assert found.configured is found.inline
    assert found.other_kind is None
    assert list(found.stages) == ["prepare", "collate"]


def test_packed_rows_are_refused(data_set: Manifest) -> None:
    with pytest.raises(ConfigError, match="single samples"):
        examine(Loader(PackedRows([], row_length=8), plan(data_set)), Setting(0), None)


def test_workers_leave_no_processes_behind(data_set: Manifest) -> None:
    measure_pipeline(samples(data_set), plan(data_set), SECONDS, num_workers=2)
    assert not multiprocessing.active_children()


def test_each_data_set_of_a_mixture_is_read_by_its_own_reader(tmp_path: Path, data_set: Manifest) -> None:
    other = write_data_set(tmp_path / "other", (5,))
    both = Samples([SampleSource(ShardReader(manifest), encode) for manifest in (data_set, other)], seed=3)

    class Alternating:
        def __init__(self, plan: EpochPlan) -> None:
            self.plan = plan

        def __len__(self) -> int:
            return 1

        def share(self, epoch: int, step: int) -> Any:
            share = self.plan.share(epoch, step)
            source = np.arange(len(share)) % 2
            return type(share)(source, share.epoch, share.sample % 5, share.weight)

    reading = measure_reading(both, Alternating(plan(data_set)), SECONDS)  # type: ignore[arg-type]
    readers = [source.reader for source in both.sources]
    share = Alternating(plan(data_set)).share(0, 0)
    expected = sum(
        stages.bytes_of(readers[source].read(sample))
        for source, sample in zip(share.source.tolist(), share.sample.tolist(), strict=True)
    )
    assert reading.first.bytes == expected
    assert len(list(itertools.islice(stages.planned(Alternating(plan(data_set)), 3), 99))) == 12  # type: ignore[arg-type]
