from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pairs import write_tar

from mmtrain.data import (
    Endless,
    Loader,
    Manifest,
    Mixture,
    PackedRows,
    Packing,
    ShardReader,
    StreamPlan,
    TokenSource,
    build_manifest,
    read_tokens,
)
from mmtrain.data.shards.index import ShardIndex
from mmtrain.errors import DataError

ROW = 32
BATCH = 8


def document(number: int) -> np.ndarray:
    """Tokens that tell the document and their place in it."""
    length = 1 + (number * 37) % 50
    return (1000 * number + np.arange(length)).astype("<u4")


def write_documents(folder: Path, first: int, sizes: tuple[int, ...]) -> Manifest:
    folder.mkdir()
    paths = []
    for shard, size in enumerate(sizes):
        numbers = range(first, first + size)
        members = [(f"{number:05d}.u32", document(number).tobytes()) for number in numbers]
        paths.append(write_tar(folder / f"docs-{shard:06d}.tar", members))
        first += size
    return build_manifest(paths, folder / "manifest.json", columns=("num_tokens",))


def packing(manifest: Manifest, source: int = 0, rows: int = 4) -> Packing:
    documents = Endless(manifest.sizes, seed=5, lanes=2, window=16, source=source)
    totals = [shard.totals["num_tokens"] for shard in manifest.shards]

    def lengths(shard: int) -> Any:
        return ShardIndex(manifest.shard_path(shard)).column("num_tokens")

    return Packing(documents, totals, lengths, row_length=ROW, rows=rows)


def loader(
    manifests: list[Manifest], rank: int = 0, world_size: int = 1, num_workers: int = 0, on_fault: Any = "raise"
) -> Loader:
    streams = [packing(manifest, source) for source, manifest in enumerate(manifests)]
    stream = streams[0] if len(streams) == 1 else Mixture(streams, [1, 2], seed=5)
    plan = StreamPlan(stream, global_batch_size=BATCH, rank=rank, world_size=world_size)
    sources = [TokenSource(ShardReader(manifest), read_tokens) for manifest in manifests]
    return Loader(PackedRows(sources, row_length=ROW, on_fault=on_fault), plan, num_workers=num_workers)


def take(source: Loader, count: int) -> list[dict[str, Any]]:
    batches: list[dict[str, Any]] = []
    while len(batches) < count:
        for batch in source:
            batches.append(batch)
            if len(batches) == count:
                break
    source.close()
    return batches


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> list[Manifest]:
    folder = tmp_path_factory.mktemp("documents")
    return [write_documents(folder / "a", 0, (40, 31, 50)), write_documents(folder / "b", 500, (60,))]


def test_rows_hold_whole_parts_with_positions_and_documents(documents: list[Manifest]) -> None:
    for batch in take(loader(documents[:1]), 20):
        assert batch["tokens"].dtype == torch.int64
        assert (batch["weight"] == 1).all()
        for row in range(BATCH):
            tokens, position, part = (batch[name][row] for name in ("tokens", "position", "document"))
            assert int(part[0]) == 0 and int(part[-1]) == len(batch["key"][row]) - 1
            assert (torch.diff(part) >= 0).all()
            for number, key in enumerate(batch["key"][row]):
                own = part == number
                assert position[own].tolist() == list(range(int(own.sum())))
                assert (tokens[own] // 1000 == int(key)).all()
                assert (torch.diff(tokens[own]) == 1).all()


def test_every_token_of_an_epoch_comes_once(documents: list[Manifest]) -> None:
    seen = torch.cat([batch["tokens"].flatten() for batch in take(loader(documents[:1]), 3 * 14)])
    counts = torch.bincount(seen)
    expected = np.concatenate([document(number) for number in range(121)])
    assert 3 * len(expected) < 3 * 14 * BATCH * ROW
    assert counts[expected].min() >= 3  # three passes; lanes may differ in where they are in the fourth
    assert counts.sum() == counts[expected].sum()


@pytest.mark.parametrize(("world_size", "num_workers"), [(2, 0), (4, 1), (1, 3)])
def test_a_packed_mixture_is_the_same_for_any_ranks_and_workers(
    documents: list[Manifest], world_size: int, num_workers: int
) -> None:
    expected = take(loader(documents), 12)
    ranks = [take(loader(documents, rank, world_size, num_workers), 12) for rank in range(world_size)]
    for step, whole in enumerate(expected):
        for name in ("tokens", "position", "document", "weight"):
            assert torch.equal(torch.cat([rank[step][name] for rank in ranks]), whole[name])
        assert [keys for rank in ranks for keys in rank[step]["key"]] == whole["key"]


def test_a_packed_mixture_resumes_where_it_stopped(documents: list[Manifest]) -> None:
    expected = take(loader(documents), 30)
    first = loader(documents)
    take(first, 17)
    state = first.state_dict()
    assert (state["epoch"], state["samples"]) == (0, 17 * BATCH)
    second = loader(documents, num_workers=2)
    second.load_state_dict(state)
    for batch, whole in zip(take(second, 13), expected[17:], strict=True):
        assert torch.equal(batch["tokens"], whole["tokens"])


def test_a_document_that_cannot_be_read_is_named_or_left_out(tmp_path: Path) -> None:
    manifest = write_documents(tmp_path / "docs", 0, (40,))
    shard = manifest.shard_path(0)
    start, _ = ShardIndex(shard).span(7)
    data = bytearray(shard.read_bytes())
    data[start] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DataError, match="differ from its checksum") as caught:
        take(loader([manifest]), 10)
    assert caught.value.where == f"{shard}, key 00007"
    source = loader([manifest], on_fault="skip")
    batches = take(source, 10)
    left_out = [int((batch["document"] == -1).sum()) for batch in batches]
    assert sum(left_out) > 0 and sum(left_out) % len(document(7)) == 0
    assert all("00007" in fault for fault in source.take_faults())
    for batch in batches:
        assert not (batch["tokens"][batch["document"] >= 0] // 1000 == 7).any()
