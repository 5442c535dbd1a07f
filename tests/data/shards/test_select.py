from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from pairs import write_tar

from mmtrain.data import Manifest, ShardIndex, ShardReader, build_manifest
from mmtrain.data.shards.index import index_path
from mmtrain.data.shards.select import Predicate, Selection
from mmtrain.errors import DataError

LENGTHS = ((3, 9, 5), (8, 9, 7), (1, 2), ())


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """Shards of texts of these lengths."""
    paths = [
        write_tar(tmp_path / f"{shard}.tar", [(f"{n}.txt", b"x" * length) for n, length in enumerate(lengths)])
        for shard, lengths in enumerate(LENGTHS)
    ]
    return build_manifest(paths, tmp_path / "manifest.json", columns=["text_length"])


def kept(manifest: Manifest, selection: Selection) -> list[list[int]]:
    """Lengths of the texts that are selected, as they are read."""
    reader, first = ShardReader(manifest), np.cumsum(manifest.sizes) - manifest.sizes
    return [
        [len(reader.read(int(first[shard]) + selection.index(shard, position))["txt"]) for position in range(size)]
        for shard, size in enumerate(selection.sizes)
    ]


@pytest.mark.parametrize(
    ("predicates", "expected"),
    [
        ([], [[3, 9, 5], [8, 9, 7], [1, 2], []]),
        (["text_length >= 5"], [[9, 5], [8, 9, 7], [], []]),
        (["text_length>5"], [[9], [8, 9, 7], [], []]),
        ([" text_length  <=  5 "], [[3, 5], [], [1, 2], []]),
        (["text_length < 5", "text_length != 2"], [[3], [], [1], []]),
        (["text_length == 9"], [[9], [9], [], []]),
        (["text_length > -1", "text_length < 999999999999999999"], [[3, 9, 5], [8, 9, 7], [1, 2], []]),
    ],
)
def test_the_samples_that_pass_are_selected(
    manifest: Manifest, predicates: list[str], expected: list[list[int]]
) -> None:
    selection = Selection(manifest, predicates)
    assert selection.sizes.tolist() == [len(lengths) for lengths in expected]
    assert selection.sizes.dtype == np.int64
    assert kept(manifest, selection) == expected
    assert manifest.sizes.tolist() == [3, 3, 2, 0]


def test_the_fingerprint_follows_data_and_predicates_but_not_how_they_are_written(manifest: Manifest) -> None:
    first = Selection(manifest, ["text_length >= 2", "text_length < 9"]).fingerprint
    assert Selection(manifest, ["text_length<9", "text_length >=  2", "text_length < 9"]).fingerprint == first
    assert Selection(manifest, ["text_length < 9"]).fingerprint != first
    other = Manifest(manifest.path, manifest.shards, "0" * 64)
    assert Selection(other, ["text_length >= 2", "text_length < 9"]).fingerprint != first


def test_only_the_indexes_are_read(manifest: Manifest, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for shard in range(4):
        path = manifest.shard_path(shard)
        index_path(path).rename(elsewhere / f"{shard}.index")
        path.unlink()
    selection = Selection(manifest, ["text_length > 7"], lambda shard: ShardIndex.read(elsewhere / f"{shard}.index"))
    assert selection.sizes.tolist() == [1, 2, 0, 0]


def test_four_bytes_are_kept_for_a_sample_and_none_for_whole_shards(manifest: Manifest) -> None:
    selection = Selection(manifest, ["text_length >= 5"])
    assert sum(positions.nbytes for positions in selection._kept.values()) == 4 * 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "text_length",
        "text_length = 5",
        "text_length > 5.5",
        "5 < text_length",
        "a > 1 and b > 2",
        "a > 1; b",
        "a > b",
    ],
)
def test_what_is_no_predicate_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="not a predicate") as caught:
        Predicate.parse(text)
    assert repr(text) in caught.value.message


@pytest.mark.parametrize(
    ("column", "mend"),
    [("width", "python -m mmtrain data index --columns width SHARDS"), ("text_lenght", "did you mean 'text_length'?")],
)
def test_a_column_that_is_not_indexed_names_filter_and_mend(manifest: Manifest, column: str, mend: str) -> None:
    with pytest.raises(DataError, match=f"no column '{column}'") as caught:
        Selection(manifest, [f"{column} >= 64"])
    assert caught.value.where == f"filter '{column} >= 64', shard 0.tar"
    assert caught.value.mend == mend


def test_a_filter_that_nothing_passes_is_refused(manifest: Manifest) -> None:
    with pytest.raises(DataError, match="no sample passes") as caught:
        Selection(manifest, ["text_length > 100"])
    assert caught.value.where == "text_length > 100"


def test_an_index_of_another_shard_is_refused(manifest: Manifest) -> None:
    os.replace(index_path(manifest.shard_path(1)), index_path(manifest.shard_path(0)))
    with pytest.raises(DataError, match="disagree"):
        Selection(manifest, ["text_length > 1"])
