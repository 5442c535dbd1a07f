from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from pairs import write_data_set

from mmtrain.data import EpochPlan, Manifest, ShardReader
from mmtrain.data.doctor.layout import Walk, layout, layout_findings, walk, world_sizes

SIZES = (9, 4, 7, 6, 8, 5, 9, 3, 9, 12)
BATCH = 12
LANES = 4
WINDOW = 6


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return write_data_set(tmp_path_factory.mktemp("ten"), SIZES)


def plan(manifest: Manifest, rank: int = 0, world_size: int = 1) -> EpochPlan:
    return EpochPlan(
        manifest.sizes, global_batch_size=BATCH, lanes=LANES, window=WINDOW, rank=rank, world_size=world_size
    )


@pytest.fixture(scope="module")
def walked(manifest: Manifest) -> Walk:
    return walk(plan(manifest), [ShardReader(manifest)])


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 12])
def test_one_walk_tells_what_each_rank_reads(manifest: Manifest, walked: Walk, world_size: int) -> None:
    reader = ShardReader(manifest)
    in_steps, in_walk = [], []
    for rank in range(world_size):
        own = plan(manifest, rank, world_size)
        steps = [set(reader.shards_of(own.share(0, step).sample).tolist()) for step in range(len(own))]
        in_steps += [len(shards) for shards in steps]
        in_walk.append(set().union(*steps))
    found = layout(walked, world_size)
    assert found.rows == BATCH // world_size
    assert found.lanes == Fraction(LANES, world_size)
    assert found.shards_per_step == pytest.approx(np.mean(in_steps))
    assert found.shards_walked == max(map(len, in_walk))
    size = [shard.bytes for shard in manifest.shards]
    read = sum(size[shard] for shards in in_walk for shard in shards)
    assert found.shared == pytest.approx(read / sum(size) - 1)


def test_ranks_that_do_not_divide_the_batch_are_told(walked: Walk) -> None:
    assert layout(walked, 8).rows is None


def test_the_estimate_of_open_shards_covers_a_windows(walked: Walk) -> None:
    # 7.2 samples a shard: a window of 6 touches 2, in each of the lanes of a rank.
    assert [layout(walked, world_size).open_shards for world_size in (1, 2, 4, 12)] == [8, 4, 2, 2]


def test_shards_are_counted_through_all_data_sets(tmp_path: Path, manifest: Manifest) -> None:
    class Both:
        global_batch_size = 4
        seed = 0

        def __init__(self) -> None:
            self.identity = {"kind": "mixture", "sources": [{"lanes": 2, "window": 3}, {"lanes": 2, "window": 9}]}

        def __len__(self) -> int:
            return 1

        def share(self, epoch: int, step: int):  # type: ignore[no-untyped-def]
            share = plan(manifest).share(0, 0).rows(0, 4)
            return type(share)(np.array([0, 1, 1, 0]), share.epoch, np.array([0, 0, 4, 71]), share.weight)

    other = write_data_set(tmp_path / "other", (4, 4))
    found = walk(Both(), [ShardReader(manifest), ShardReader(other)])  # type: ignore[arg-type]
    assert found.shard.tolist() == [0, 10, 11, 9]
    assert len(found.shard_bytes) == 12
    assert found.orders == ((2, 3), (2, 9))


def test_world_sizes_reach_the_configs() -> None:
    assert world_sizes(1) == [1]
    assert world_sizes(6) == [1, 2, 4, 6, 8]
    assert world_sizes(8) == [1, 2, 4, 8]


def made(shards: int, samples: int, lanes: int, window: int, batch: int = 64) -> Walk:
    """A walk of one step over shards of equal size, without a shuffle."""
    shard = np.arange(batch) * shards // batch
    size = np.full(shards, 1000)
    return Walk(batch, 1, np.zeros(batch, np.int64), np.arange(batch), shard, size, samples, ((lanes, window),))


def findings(walked: Walk, world_size: int = 1, **facts: float) -> list[tuple[str, str | None]]:
    settings = {"max_open": 64, "opening_us": 400.0, "reading_us": 20.0, "fetched_by": 1, **facts}
    found = layout_findings(walked, layout(walked, world_size), **settings)  # type: ignore[arg-type]
    return [(finding.text, finding.override) for finding in found]


def test_a_layout_that_costs_nothing_is_not_warned_of() -> None:
    assert findings(made(shards=100, samples=1000, lanes=8, window=2000)) == []


def test_more_shards_at_a_time_than_are_held_open_are_warned_of() -> None:
    ((text, override),) = findings(made(shards=1000, samples=100, lanes=8, window=3100))
    assert "draws from 256 shards at a time, and a reader holds 64 open: 75% of reads open one" in text
    assert "adds 300 us to the 20 us" in text
    assert override == "data.window=700"
    assert findings(made(shards=1000, samples=100, lanes=8, window=700)) == []  # what was suggested helps


def test_no_window_is_suggested_where_the_lanes_alone_are_too_many() -> None:
    ((_, override),) = findings(made(shards=1000, samples=100, lanes=64, window=100))
    assert override is None


def test_shared_shards_are_warned_of_where_each_node_fetches_them() -> None:
    few = made(shards=2, samples=1000, lanes=8, window=100)
    assert findings(few, 8) == []  # one disk, or one page cache
    ((text, override),) = findings(few, 8, fetched_by=4)
    assert "2 shards for 8 lanes" in text
    assert "8 ranks read shards 4.0 times" in text
    assert override == "python -m mmtrain data pack ... --samples-per-shard 250"
    ((text, override),) = findings(made(shards=4, samples=1000, lanes=4, window=100), 16, fetched_by=2)
    assert "4 lanes for 16 ranks" in text
    assert override == "data.lanes=16"
