from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtrain.data.plan.order import EpochOrder, Shuffle
from mmtrain.data.plan.packing import Packing
from mmtrain.data.plan.share import Share
from mmtrain.data.plan.stream import Endless, StreamPlan
from mmtrain.errors import ConfigError, DataError

Part = tuple[int, int, int, int]  # epoch, document, first token, end

SHARDS = [[5, 0, 17, 3], [], [40], [1, 1, 1, 2, 0, 0, 9], [0], [12, 30, 7]]  # tokens of each document


class Corpus:
    """Documents, and how often each shard's lengths were read."""

    def __init__(self, shards: Sequence[Sequence[int]]) -> None:
        self.lengths = [np.array(shard, np.uint32) for shard in shards]
        self.sizes = np.array([len(shard) for shard in shards])
        self.totals = np.array([sum(map(int, shard)) for shard in shards])
        self.document = np.concatenate([np.array(shard, np.int64) for shard in shards])
        self.reads = 0

    def read(self, shard: int) -> np.ndarray:
        self.reads += 1
        return self.lengths[shard]

    def packing(
        self, row_length: int, rows: int, *, lanes: int = 2, window: int = 4, shuffle: Shuffle = "block"
    ) -> Packing:
        documents = Endless(self.sizes, seed=1, lanes=lanes, window=window, shuffle=shuffle)
        return Packing(documents, self.totals, self.read, row_length=row_length, rows=rows)


def rows_of(share: Share) -> list[list[Part]]:
    assert share.pieces is not None
    found: list[list[Part]] = [[] for _ in range(len(share))]
    parts = zip(share.epoch.tolist(), share.sample.tolist(), *(field.tolist() for field in share.pieces), strict=True)
    for epoch, sample, row, start, stop in parts:
        found[row].append((epoch, sample, start, stop))
    return found


def walked(corpus: Corpus, lane: int, epochs: int, **options: int) -> list[tuple[int, int, int]]:
    """The oracle: every token of a lane's stream as (epoch, document, token), one by one."""
    tokens = []
    for epoch in range(epochs):
        order = EpochOrder(corpus.sizes, seed=1, epoch=epoch, **{"lanes": 2, "window": 4, **options})
        for document in order.lane_samples(lane, 0, order.lane_length(lane)).tolist():
            tokens += [(epoch, document, token) for token in range(corpus.document[document])]
    return tokens


def tokens_of(rows: list[list[Part]]) -> list[tuple[int, int, int]]:
    return [(epoch, doc, token) for row in rows for epoch, doc, start, stop in row for token in range(start, stop)]


@pytest.mark.parametrize("row_length", [1, 4, 16, 100, 300])  # 300: two epochs of a lane and more
@pytest.mark.parametrize("lane", [0, 1])
@pytest.mark.parametrize("window", [1, 4, 1000])
def test_one_row_a_group_is_concat_and_chunk(row_length: int, lane: int, window: int) -> None:
    corpus = Corpus(SHARDS)
    expected = walked(corpus, lane, 60, window=window)
    count = 1000 // row_length
    rows = rows_of(corpus.packing(row_length, 1, window=window).take(lane, 0, count))
    assert [tokens_of([row]) for row in rows] == [
        expected[start : start + row_length] for start in range(0, count * row_length, row_length)
    ]
    parts = [part for row in rows for part in row]
    assert all(stop > start for *_, start, stop in parts)


@pytest.mark.parametrize("rows", [2, 3, 8])
@pytest.mark.parametrize("row_length", [1, 4, 16, 100])
@pytest.mark.parametrize("shuffle", ["block", "none"])
def test_a_group_holds_exactly_its_tokens_of_the_stream(rows: int, row_length: int, shuffle: Shuffle) -> None:
    corpus = Corpus(SHARDS)
    packing = corpus.packing(row_length, rows, lanes=3, shuffle=shuffle)
    size = rows * row_length
    for lane in range(3):
        expected = walked(corpus, lane, 400, lanes=3, shuffle=shuffle)  # a lane may have 5 tokens in each
        for group in range(500 // size + 2):
            packed = rows_of(packing.take(lane, group * rows, (group + 1) * rows))
            assert {len(tokens_of([row])) for row in packed} == {row_length}
            assert sorted(tokens_of(packed)) == sorted(expected[group * size : (group + 1) * size])


@pytest.mark.parametrize("rows", [1, 4])
def test_every_token_of_every_document_comes_once_an_epoch(rows: int) -> None:
    corpus = Corpus(SHARDS)
    seen = defaultdict(int)
    for lane in range(2):
        for token in tokens_of(rows_of(corpus.packing(16, rows).take(lane, 0, 60))):
            seen[token] += 1
    assert set(seen.values()) == {1}
    for epoch in range(8):
        for document, length in enumerate(corpus.document):
            assert all((epoch, document, token) in seen for token in range(length))


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(st.integers(0, 50), max_size=8), min_size=1, max_size=8).filter(lambda s: any(map(any, s))),
    st.integers(1, 40),
    st.integers(1, 5),
    st.integers(1, 6),
    st.integers(0, 40),
    st.integers(1, 20),
)
def test_random_access_gives_what_walking_gives(
    shards: list[list[int]], row_length: int, rows: int, window: int, start: int, count: int
) -> None:
    corpus = Corpus(shards)
    all_at_once = rows_of(corpus.packing(row_length, rows, lanes=1, window=window).take(0, 0, start + count))
    jumped = rows_of(corpus.packing(row_length, rows, lanes=1, window=window).take(0, start, start + count))
    assert jumped == all_at_once[start:]
    whole_groups = start // rows * rows
    expected = walked(corpus, 0, whole_groups * row_length // corpus.totals.sum() + 1, lanes=1, window=window)
    assert sorted(tokens_of(all_at_once[:whole_groups])) == sorted(expected[: whole_groups * row_length])


@pytest.mark.parametrize(
    ("rows", "digest"),
    [
        (1, "87478c920f525ce1dda58dd774d4295e0b607fa7f5551aefef67a46f08a1212d"),
        (4, "fadc38b252b3071ae4f5a9c2923abfd7641932728eb885cd0579b44df4ccdc71"),
    ],
)
def test_the_order_never_changes_between_versions(rows: int, digest: str) -> None:
    parts = [part for row in rows_of(Corpus(SHARDS).packing(16, rows).take(1, 0, 60)) for part in row]
    assert hashlib.sha256(np.array(parts, "<i8").tobytes()).hexdigest() == digest


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize("rows", [1, 4])
def test_batches_are_the_same_for_any_world_size(world_size: int, rows: int) -> None:
    packing = Corpus(SHARDS).packing(16, rows)
    whole = StreamPlan(packing, global_batch_size=8)
    ranks = [StreamPlan(packing, global_batch_size=8, rank=r, world_size=world_size) for r in range(world_size)]
    assert {len(plan) for plan in (*ranks, whole)} == {1}  # 128 tokens are 8 rows
    for step in range(20):
        assert [row for plan in ranks for row in rows_of(plan.share(step, 0))] == rows_of(whole.share(step, 0))


def test_best_fit_cuts_far_fewer_documents() -> None:
    lengths = np.random.default_rng(0).lognormal(5, 1, 4000).astype(int).clip(1, 1024)
    cut = {}
    for rows in (1, 16, 64):
        packing = Corpus([lengths]).packing(1024, rows, lanes=1, window=1000)
        count = int(lengths.sum()) // 1024
        parts = [part for row in rows_of(packing.take(0, 0, count)) for part in row]
        cut[rows] = len({doc for _, doc, start, stop in parts if stop - start < lengths[doc]}) / len(lengths)
    assert cut[1] > 0.2 and cut[16] < cut[1] / 3 and cut[64] < cut[1] / 6


def test_rows_of_a_group_stand_in_a_random_order_of_its_own() -> None:
    """Best fit fills the first rows with the longest documents, and a batch must not hold those alone."""
    group = [100] * 32 + [10] * 320
    packing = Corpus([group * 4]).packing(100, 64, lanes=1, shuffle="none")
    orders = set()
    for number in range(4):
        rows = rows_of(packing.take(0, 64 * number, 64 * number + 64))
        long_rows = np.flatnonzero([len(row) == 1 for row in rows])
        assert len(long_rows) == 32 and 20 < long_rows.mean() < 44
        orders.add(tuple(long_rows))
    assert len(orders) == 4


def test_a_jump_far_into_an_epoch_reads_few_shards() -> None:
    corpus = Corpus([[100] * 50] * 2000)
    packing = corpus.packing(512, 4, lanes=2, window=100)
    packing.take(1, 8000, 8004)  # 4 million tokens into the lane
    assert corpus.reads <= 3 + 5 + 1  # the lanes' edges, the shards of two blocks, the shard of the place


def test_sources_do_not_share_an_order() -> None:
    corpus = Corpus([list(range(1, 60))])
    packings = [
        Packing(Endless(corpus.sizes, source=source, lanes=1), corpus.totals, corpus.read, row_length=64, rows=2)
        for source in (0, 1)
    ]
    shares = [packing.take(0, 0, 4) for packing in packings]
    assert [set(share.source.tolist()) for share in shares] == [{0}, {1}]
    assert rows_of(shares[0]) != rows_of(shares[1])


def test_a_sliding_shuffle_is_refused() -> None:
    with pytest.raises(ConfigError, match="sliding shuffle") as caught:
        Corpus(SHARDS).packing(8, 1, shuffle="slide")
    assert caught.value.mend == "set data.shuffle=block"


@pytest.mark.parametrize(("row_length", "rows"), [(0, 1), (1, 0)])
def test_rows_of_nothing_are_refused(row_length: int, rows: int) -> None:
    with pytest.raises(ConfigError, match="= 0"):
        Corpus(SHARDS).packing(row_length, rows)


def test_documents_without_a_token_are_refused() -> None:
    with pytest.raises(DataError, match="the documents have no tokens"):
        Corpus([[0, 0], [0]]).packing(8, 1)


def test_a_lane_that_never_meets_a_token_is_an_error_and_not_a_hang() -> None:
    with pytest.raises(DataError, match="lane 1 have no tokens"):
        Corpus([[5, 0]]).packing(8, 1, lanes=2).take(1, 0, 1)


def test_an_index_that_disagrees_with_the_manifest_is_an_error() -> None:
    corpus = Corpus(SHARDS)
    corpus.totals[3] += 1
    with pytest.raises(DataError, match="shard 3 has 14 tokens by its index and 15 by the manifest"):
        corpus.packing(8, 1).take(0, 0, 60)


def test_identity_is_of_plain_values() -> None:
    identity = Corpus(SHARDS).packing(8, 4).identity
    documents = {"kind": "endless", "seed": 1, "lanes": 2, "window": 4, "shuffle": "block", "source": 0}
    assert identity == {"kind": "packing", "row_length": 8, "rows": 4, "documents": documents}
