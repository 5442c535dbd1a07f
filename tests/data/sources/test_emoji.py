"""The emoji data set: what is in which split, and that the same archives give the same bytes."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import webdataset as wds
from PIL import Image, features

from mmtrain.data import ShardReader, load_manifest
from mmtrain.data.sources import emoji
from mmtrain.data.sources.emoji import Emoji, split_of
from mmtrain.data.sources.emoji_card import write_card
from mmtrain.data.sources.emoji_concepts import FILL, Concept, Painter, read_concepts
from mmtrain.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def concepts() -> list[Concept]:
    return read_concepts()


@pytest.fixture
def few(concepts: list[Concept], monkeypatch: pytest.MonkeyPatch) -> list[Concept]:
    """Every 40th concept, and shards of 16, so that a data set is made in a second."""
    chosen = concepts[::40]
    monkeypatch.setattr(emoji, "read_concepts", lambda cache_dir: chosen)
    monkeypatch.setattr(emoji, "SAMPLES_PER_SHARD", 16)
    return chosen


def records(root: Path, split: str) -> list[dict[str, object]]:
    reader = ShardReader(load_manifest(root / split / "manifest.json"))
    return [json.loads(reader.read(number)["json"]) for number in range(len(reader))]


def png(color: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (72, 72), color).save(buffer, "PNG")
    return buffer.getvalue()


def test_there_are_1889_concepts_and_their_captions_tell_them_apart(concepts: list[Concept]) -> None:
    assert len(concepts) == 1889
    assert len({concept.caption.casefold() for concept in concepts}) == 1889
    assert len({concept.category for concept in concepts}) == 10
    assert len({concept.subcategory for concept in concepts}) == 100
    party = next(concept for concept in concepts if concept.codepoints == "1f973")
    assert (party.text, party.caption, party.category) == ("🥳", "partying face", "Smileys & Emotion")


def test_the_split_of_every_picture_is_fixed_for_ever(concepts: list[Concept]) -> None:
    pictures = [(concept.codepoints, style) for concept in concepts for style in emoji.STYLES]
    splits = [split_of(*picture) for picture in pictures]
    assert Counter(splits) == {"train": 3026, "new_style": 364, "new_concept": 388}
    assert hashlib.sha256(" ".join(splits).encode()).hexdigest()[:16] == "b059fcc126a3c737"


def test_no_new_concept_is_ever_trained_on_and_new_style_is_openmoji_alone(concepts: list[Concept]) -> None:
    for concept in concepts:
        twemoji, openmoji = (split_of(concept.codepoints, style) for style in ("twemoji", "openmoji"))
        assert (twemoji == "new_concept") == (openmoji == "new_concept")
        assert twemoji != "new_style"


def test_labels_number_the_classes_beside_the_shards(few: list[Concept], tmp_path: Path) -> None:
    Emoji().prepare(tmp_path / "emoji")
    seen = 0
    for split in emoji.SPLITS:
        names = json.loads((tmp_path / "emoji" / split / "classes.json").read_text())
        for record in records(tmp_path / "emoji", split):
            label = record["label"]
            assert isinstance(label, int)
            assert names["classes"][label] == record["concept"]
            assert names["category_names"][names["categories"][label]] == record["category_name"]
            assert names["categories"][label] == record["category"]
            assert split_of(str(record["codepoints"]), str(record["style"])) == split
            seen += 1
    assert seen == 2 * len(few)


def test_new_style_is_named_like_train(few: list[Concept], tmp_path: Path) -> None:
    Emoji().prepare(tmp_path / "emoji")
    train, new_style, new_concept = (
        json.loads((tmp_path / "emoji" / split / "classes.json").read_text()) for split in emoji.SPLITS
    )
    assert train == new_style
    assert sorted(train["classes"] + new_concept["classes"]) == sorted(concept.caption for concept in few)


def test_shards_are_read_by_webdataset(few: list[Concept], tmp_path: Path) -> None:
    Emoji(64).prepare(tmp_path / "emoji")
    shards = sorted(map(str, (tmp_path / "emoji" / "train").glob("*.tar")))
    assert len(shards) > 1
    samples = list(wds.WebDataset(shards, shardshuffle=False).decode("rgb8"))
    assert len(samples) == load_manifest(tmp_path / "emoji" / "train" / "manifest.json").samples
    assert all(sample["png"].shape == (64, 64, 3) for sample in samples)
    assert all(sample["txt"] == sample["json"]["concept"] for sample in samples)


def test_the_same_archives_give_the_same_bytes(few: list[Concept], tmp_path: Path) -> None:
    Emoji().prepare(tmp_path / "one")
    Emoji().prepare(tmp_path / "two")
    one, two = (
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (tmp_path / "one", tmp_path / "two")
    )
    assert len(one) > 12
    assert one == two


def test_a_folder_made_otherwise_is_refused_and_kept(few: list[Concept], tmp_path: Path) -> None:
    Emoji(64).prepare(tmp_path / "emoji")
    marker = (tmp_path / "emoji" / "dataset.json").read_bytes()
    with pytest.raises(DataError, match="image_size 64, not 72") as refused:
        Emoji(72).prepare(tmp_path / "emoji")
    assert "name another folder" in str(refused.value.mend)
    assert (tmp_path / "emoji" / "dataset.json").read_bytes() == marker


def test_a_folder_made_by_another_version_is_refused(
    few: list[Concept], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Emoji().prepare(tmp_path / "emoji")
    monkeypatch.setattr(emoji, "VERSION", emoji.VERSION + 1)
    with pytest.raises(DataError, match="version 1, not 2"):
        Emoji().prepare(tmp_path / "emoji")


def test_evaluation_sets_are_the_folders_that_are_made(few: list[Concept], tmp_path: Path) -> None:
    source = Emoji()
    source.prepare(tmp_path / "emoji")
    folders = {path.parent.name for path in (tmp_path / "emoji").glob("*/manifest.json")}
    assert folders == {"train", *source.eval_sets}
    assert {spec.task for spec in source.eval_sets.values()} == {"zeroshot", "retrieval"}


def test_a_size_that_no_picture_has_is_refused() -> None:
    with pytest.raises(ConfigError, match="64 or 72, not 224"):
        Emoji(image_size=224)


@pytest.mark.parametrize("size", [64, 72])
def test_openmoji_drawings_are_whole_centred_and_fill_the_picture(concepts: list[Concept], size: int) -> None:
    painter = Painter(size)
    for concept in concepts[::40]:
        picture = painter.openmoji(concept)
        rows, columns = np.nonzero((np.asarray(picture) < 255).any(2))
        top, bottom, left, right = rows.min(), size - 1 - rows.max(), columns.min(), size - 1 - columns.max()
        assert picture.size == (size, size)
        assert abs(top - bottom) <= 2, concept.caption
        assert abs(left - right) <= 2, concept.caption
        assert abs(max(np.ptp(rows), np.ptp(columns)) + 1 - size * FILL) <= 2, concept.caption


def test_small_squares_stay_smaller_than_large_ones(concepts: list[Concept]) -> None:
    painter = Painter(72)
    by_caption = {concept.caption: concept for concept in concepts}
    small, large = (
        int((np.asarray(painter.openmoji(by_caption[f"black {size} square"])) < 128).all(2).sum())
        for size in ("small", "large")
    )
    assert small < large / 2


def test_both_styles_draw_on_white(concepts: list[Concept]) -> None:
    painter = Painter(72)
    heart = next(concept for concept in concepts if concept.caption == "red heart")
    for picture in (painter.twemoji(heart), painter.openmoji(heart)):
        assert picture.mode == "RGB"
        assert picture.getpixel((1, 70)) == (255, 255, 255)
        red, green, blue = np.asarray(picture)[36, 36].astype(int)
        assert red > 180 > green + blue


def test_a_pillow_that_would_tear_joined_emoji_apart_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "check", lambda feature: feature != "raqm")
    with pytest.raises(DataError, match="Raqm"):
        Painter(72)


def test_the_card_counts_pictures_that_stand_for_several_concepts(tmp_path: Path) -> None:
    three = [Concept(key, "?", f"caption {key}", (), "Flags", "flag") for key in "abc"]
    splits = {"a": "new_style", "b": "train", "c": "new_concept"}
    pictures = {(key, "twemoji"): png(color) for key, color in zip("abc", ("red", "green", "blue"), strict=True)}
    pictures |= {(key, "openmoji"): png("white") for key in "abc"}
    counts = {split: {"samples": 2, "classes": 1, "shards": 1} for split in emoji.SPLITS}
    marker = {
        "made_from": {"image_size": 72, "version": 1, "archives": {"some==1": "abc"}},
        "made_with": {"pillow": "1"},
        "splits": counts,
    }
    write_card(tmp_path, three, pictures, lambda key, style: splits[key], marker)
    card = (tmp_path / "README.md").read_text()
    assert "- 1 of the 2 pictures of `new_style` also stand" in card
    assert "- 1 of the 2 pictures of `new_concept` stand in `train` too" in card
    assert "- openmoji: caption a, caption b, caption c" in card
    assert "- twemoji:" not in card
    assert Image.open(tmp_path / "grid.png").width > 4 * 144


@pytest.mark.slow
def test_the_whole_data_set_is_made(concepts: list[Concept], tmp_path: Path) -> None:
    Emoji().prepare(tmp_path / "emoji")
    manifests = {split: load_manifest(tmp_path / "emoji" / split / "manifest.json") for split in emoji.SPLITS}
    assert {split: (m.samples, len(m.shards)) for split, m in manifests.items()} == {
        "train": (3026, 6),
        "new_style": (364, 1),
        "new_concept": (388, 1),
    }
    card = (tmp_path / "emoji" / "README.md").read_text()
    assert "openmoji: Norway, Svalbard & Jan Mayen" in card
    assert all(licence in card for licence in ("CC BY 4.0", "CC BY-SA 4.0", "BSD-3-Clause", "MIT"))
