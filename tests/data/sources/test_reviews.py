from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmtrain.data import ShardReader, open_shards
from mmtrain.data.sources.reviews import Reviews, split_of
from mmtrain.errors import DataError


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reviews") / "reviews"
    Reviews().prepare(folder)
    return folder


def records(root: Path, split: str) -> list[dict[str, object]]:
    reader = ShardReader(open_shards(root / split))
    return [json.loads(reader.read(number)["json"]) for number in range(len(reader))]


def test_the_splits_are_fixed_for_ever(root: Path) -> None:
    sizes = {}
    for split in ("train", "val", "test"):
        found = records(root, split)
        sizes[split] = (len(found), sum(record["label"] == "positive" for record in found))
        assert {split_of(str(record["text"])) for record in found} == {split}
    assert sizes == {"train": (8413, 4171), "val": (1072, 546), "test": (1083, 525)}


def test_the_same_archive_gives_the_same_bytes(root: Path) -> None:
    fingerprints = {split: open_shards(root / split).fingerprint[:12] for split in ("train", "val", "test")}
    assert fingerprints == {"train": "4077d2c1dfe3", "val": "aaf7450ea023", "test": "bd6969e77453"}


def test_a_label_is_the_sign_of_the_rating_and_texts_do_not_leak(root: Path) -> None:
    everything = {split: records(root, split) for split in ("train", "val", "test")}
    for record in (record for split in everything.values() for record in split):
        assert (record["label"] == "positive") == (record["rating"] > 0)
        assert record["rating"] != 0 and -4 <= record["rating"] <= 4
        assert str(record["text"]).strip() == record["text"] != ""
    texts = [{record["text"] for record in split} for split in everything.values()]
    assert len(set.union(*texts)) == sum(map(len, texts))


def test_the_card_names_licence_splits_and_figures(root: Path) -> None:
    card = (root / "README.md").read_text()
    for wanted in ("MIT", "C.J. Hutto", "| `test` | 1083 | 558 | 525 |", "0.793", "vaderSentiment==3.3.2"):
        assert wanted in card
    assert max(map(len, card.splitlines())) < 160


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text('{"made_from": {"source": "emoji"}}')
    with pytest.raises(DataError, match="made with source 'emoji', not 'reviews'"):
        Reviews().prepare(tmp_path)
