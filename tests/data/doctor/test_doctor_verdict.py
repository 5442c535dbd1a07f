from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mmtrain.data.doctor.examine import Examination, Setting
from mmtrain.data.doctor.smaller import Smaller
from mmtrain.data.doctor.stages import Reading, Speed
from mmtrain.data.doctor.verdict import Training, bound, verdict


def us(microseconds: float, *, cores: float = 1.0, kilobytes: float = 0) -> Speed:
    """1,000 samples that took so long each."""
    return Speed(1000, microseconds / 1e3, cores * microseconds / 1e3, int(kilobytes * 1e6))


def per_second(rate: float, *, cores: float = 4.0) -> Speed:
    return us(1e6 / rate, cores=cores)


READING = Reading(us(20, kilobytes=30), 0.0, us(15, kilobytes=30), us(12, kilobytes=30), 300.0)

DECODE_BOUND = Examination(
    setting=Setting(4, cores=4),
    share=256,
    rows=256,
    reading=READING,
    stages={"decode": us(400), "augment": us(60), "tokenize": us(20), "collate": us(5)},
    inline=per_second(2000),
    whole={4: per_second(7800)},
    other_kind=per_second(6000),
    transport=per_second(400_000),
    smaller=None,
)


def examination(num_workers: int = 4, **changes: Any) -> Examination:
    setting = replace(DECODE_BOUND.setting, num_workers=num_workers, **changes.pop("setting", {}))
    return replace(DECODE_BOUND, setting=setting, **changes)


def overrides(found: Examination, training: Training | None = None) -> list[str]:
    return [finding.override for finding in verdict(found, training) if finding.override is not None]


def text(found: Examination, training: Training | None = None) -> str:
    return "\n".join(finding.text for finding in verdict(found, training))


def test_a_decode_bound_plane_that_uses_its_cores_needs_no_change() -> None:
    assert bound(DECODE_BOUND) == "decode"
    assert overrides(DECODE_BOUND) == []
    assert "Decode bounds: 400 of the 500 us" in text(DECODE_BOUND)
    assert "4 workers give 7,800 samples/s; more would bring no more" in text(DECODE_BOUND)


def test_a_read_bound_plane_is_told_from_the_disk_not_from_the_cache() -> None:
    cold = examination(reading=replace(READING, first=us(900, cores=0.05, kilobytes=30), from_disk=0.97))
    warm = examination(reading=replace(READING, first=us(900, cores=0.05, kilobytes=30), from_disk=0.0))
    assert (bound(cold), bound(warm)) == ("read", "decode")
    assert "97% of what was read first came from a disk, at 33 MB/s" in text(cold)
    assert "a rank reads 234 MB/s" in text(cold)  # 7,800 samples of 30 kB
    assert "came from a disk" not in text(warm)


def test_a_transport_bound_plane_is_told_and_freed_of_its_workers() -> None:
    slow = examination(
        1, inline=per_second(40_000), whole={1: per_second(20_000), 4: per_second(22_000)}, transport=per_second(30_000)
    )
    assert bound(slow) == "transport"
    assert overrides(slow) == ["data.num_workers=0"]
    assert "20,000 samples/s come, of 30,000 samples/s when workers prepare nothing" in text(slow)
    threads = examination(1, setting={"workers": "thread"}, whole=slow.whole, transport=slow.transport)
    assert bound(threads) == "decode"  # threads do not take that way


def test_too_few_workers_are_raised_to_the_fewest_that_saturate() -> None:
    few = examination(1, whole={1: per_second(2000), 2: per_second(3900), 3: per_second(5400), 4: per_second(5500)})
    assert overrides(few) == ["data.num_workers=3", "data.workers=thread"]
    assert "3 workers give 5,400 samples/s, 1 worker gives 2,000 samples/s" in text(few)


def test_more_workers_than_the_ranks_of_a_node_have_cores_are_lowered() -> None:
    many = examination(
        8,
        setting={"ranks_per_node": 2, "world_size": 2},
        whole={2: per_second(3900), 8: per_second(7900)},
        other_kind=None,
    )
    assert overrides(many) == ["data.num_workers=2"]
    assert "8 workers for each of 2 ranks share 4 cores" in text(many)


def test_no_gain_within_the_noise_is_suggested() -> None:
    close = examination(2, whole={2: per_second(7300), 4: per_second(7800)}, other_kind=per_second(7900))
    assert overrides(close) == []
    assert "more would bring no more" not in text(close)


def test_threads_are_suggested_where_they_were_faster() -> None:
    assert overrides(examination(other_kind=per_second(9000))) == ["data.workers=thread"]
    assert overrides(examination(setting={"workers": "thread"}, other_kind=per_second(9000))) == [
        "data.workers=process"
    ]
    assert overrides(examination(other_kind=None)) == []


def test_smaller_pictures_are_suggested_where_they_save() -> None:
    saving = examination(smaller=Smaller(256, us(500, kilobytes=120), us(150, kilobytes=30)))
    assert overrides(saving) == ["python -m mmtrain data pack images FOLDER --resize 256 --out DIR"]
    assert "150 us of a worker to prepare instead of 500, and 30 kB to read instead of 120" in text(saving)
    assert overrides(examination(smaller=Smaller(256, us(500), us(480)))) == []


def test_nothing_is_to_be_done_where_the_data_keeps_up_with_training() -> None:
    few = examination(
        1,
        whole={1: per_second(2000), 4: per_second(7800)},
        smaller=Smaller(256, us(500), us(150)),
        other_kind=per_second(9000),
    )
    enough = Training(samples_per_second=1500, data_wait=0.01)
    assert overrides(few, enough) == []
    assert "keeps up" in text(few, enough)


@pytest.mark.parametrize("training", [Training(2500, 0.01), Training(1500, 0.4)])
def test_training_that_waits_is_told_and_helped(training: Training) -> None:
    few = examination(1, whole={1: per_second(2000), 4: per_second(7800)}, other_kind=None)
    assert overrides(few, training) == ["data.num_workers=4"]
    assert "Training waits" in text(few, training)


def test_ranks_of_a_node_share_its_cores_when_training_is_compared() -> None:
    # One rank alone gets 7,800 samples/s; four on four cores of 500 us a sample get 2,000 each.
    shared = examination(1, setting={"ranks_per_node": 4, "world_size": 4}, whole={1: per_second(7800)})
    assert "each rank can have 2,000 samples/s, and took 1,500 samples/s" in text(shared, Training(6000, 0.0))
    assert "Training waits" in text(shared, Training(9000, 0.0))


def test_the_cost_of_verification_is_stated() -> None:
    assert "Comparing checksums takes 3.0 us of a sample, 0.6%" in text(DECODE_BOUND)


def test_figures_taken_beside_other_programs_are_called_so() -> None:
    assert "Other programs" not in text(DECODE_BOUND)
    busy = examination(stages={name: us(speed.us_per_sample, cores=0.3) for name, speed in DECODE_BOUND.stages.items()})
    assert "got 30% of a core" in text(busy)
    assert "Decode bounds: 120 of the 160 us" in text(busy)  # processor time, which others do not change


def test_cores_that_workers_did_not_get_are_told() -> None:
    short = examination(whole={1: per_second(2000, cores=1), 4: per_second(2100, cores=1.1)})
    assert "4 workers got 1.1 cores together" in text(short)
    assert "cores together" not in text(DECODE_BOUND)
    waiting = examination(whole={4: per_second(300_000, cores=1.1)}, transport=per_second(400_000))
    assert "cores together" not in text(waiting)  # for the transport
