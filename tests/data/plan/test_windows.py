from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pairs import write_tar

from mmtrain.data import Manifest, ShardReader, build_manifest
from mmtrain.data.plan.windows import Window, Windows
from mmtrain.errors import DataError

LENGTHS = [[5, 100, 31, 44], [250, 1, 29], [90]]


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = tmp_path_factory.mktemp("documents")
    shards, number = [], 0
    for shard, lengths in enumerate(LENGTHS):
        members = []
        for length in lengths:
            members.append((f"{number}.u16", np.arange(length, dtype="<u2").tobytes()))
            number += 1
        shards.append(write_tar(folder / f"{shard}.tar", members))
    return build_manifest(shards, folder / "manifest.json", columns=("num_tokens",))


def test_a_document_is_met_in_proportion_to_its_length(documents: Manifest) -> None:
    windows = Windows(documents, 30)
    parts = [max(1, round(length / 30)) for lengths in LENGTHS for length in lengths]
    assert windows.sizes.tolist() == [sum(parts[:4]), sum(parts[4:7]), parts[7]]
    every = [windows.window(sample) for sample in range(sum(parts))]
    assert every == [Window(number, part, count) for number, count in enumerate(parts) for part in range(count)]


def test_a_reader_gives_the_document_of_each_window(documents: Manifest) -> None:
    windows = Windows(documents, 30)
    reader = ShardReader(documents, select=windows)
    keys = [int(reader.read(sample)["__key__"]) for sample in range(len(reader))]
    assert keys == [windows.window(sample).document for sample in range(len(reader))]
    assert reader.fingerprint not in (documents.fingerprint, Windows(documents, 40).fingerprint)


@pytest.mark.parametrize(("num_tokens", "parts"), [(250, 8), (44, 1), (30, 1), (7, 1)])
def test_starts_leave_no_token_out_and_no_window_short(num_tokens: int, parts: int) -> None:
    seen = np.zeros(num_tokens, int)
    draws = np.linspace(0, 1, 100, endpoint=False)
    for part in range(parts):
        starts = [Window(0, part, parts).start(num_tokens, 30, draw) for draw in draws]
        assert starts == sorted(starts)
        assert starts[0] >= 0 and starts[-1] <= max(0, num_tokens - 30)
        for start in starts:
            seen[start : start + 30] += 1
    assert seen.min() > 0


def test_an_index_without_lengths_says_how_to_get_them(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "0.tar", [("0.u16", b"\1\0")])
    with pytest.raises(DataError, match="no column 'num_tokens'") as caught:
        Windows(build_manifest([shard], tmp_path / "manifest.json"), 30)
    assert "--columns num_tokens" in str(caught.value.mend)
