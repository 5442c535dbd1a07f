"""CLIP's tokenizer against OpenAI's own code, run from the pinned archive, and against transformers."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import random
import sys
import unicodedata
from pathlib import Path
from types import ModuleType
from typing import Protocol

import numpy as np
import pytest

from mmtrain.data.decode.tokenizer import ARCHIVE, MEMBER, ClipTokenizer
from mmtrain.data.download import fetch, read_member
from mmtrain.data.sources.emoji_concepts import read_concepts
from mmtrain.errors import ConfigError, DataError

TRICKY = [
    "",
    "   ",
    "Café naïve façade",
    "it's they're we'll I'd you've I'm can't a'b''s 'S 'LL don´t",
    "woman’s “quoted” ﬁancé ＦＵＬＬ",
    "2024 3,141 x²½Ⅷ٣",
    "日本語 テキスト नमस्ते ไทย",
    "😀👨‍👩‍👧 ok",
    "a  b\t c\n\nd\u00a0e\u2003f\u200bg",
    "AT&amp;T &lt;b&gt; &amp;amp;",
    "<|startoftext|> hi <|endoftext|> <|STARTOFTEXT|>x<|start",
    "ΑΣ ΌΣΟΣ İstanbul Straße 'ſ",
    "sâ€™il \x1b[31mred\x1b[0m",
    "supercalifragilisticexpialidocious " * 3,
    "!!!???...",
]


class Encoder(Protocol):
    def encode(self, text: str) -> list[int]: ...


@pytest.fixture(scope="module")
def archive() -> Path:
    return fetch(ARCHIVE)


@pytest.fixture(scope="module")
def openai(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    """OpenAI's ``SimpleTokenizer``; reading it runs the archive's code, whose hash was checked."""
    vocabulary = tmp_path_factory.mktemp("clip") / "bpe_simple_vocab_16e6.txt.gz"
    vocabulary.write_bytes(read_member(archive, MEMBER))
    module = ModuleType("simple_tokenizer")
    module.__file__ = str(vocabulary)
    exec(read_member(archive, "clip/simple_tokenizer.py"), module.__dict__)
    encoder: Encoder = module.SimpleTokenizer(str(vocabulary))
    return encoder


@pytest.fixture(scope="module")
def ours(archive: Path) -> ClipTokenizer:
    return ClipTokenizer()


def random_text(draw: random.Random) -> str:
    """Text of mixed scripts; without characters newer than Python's tables, on which libraries differ."""
    blocks = [(32, 127), (0x80, 0x250), (0x370, 0x530), (0x2000, 0x2200), (0x4E00, 0x4F00), (0x1F300, 0x1F6FF)]
    characters = (chr(draw.randrange(*draw.choice([blocks[0], *blocks]))) for _ in range(draw.randrange(1, 24)))
    return "".join(character for character in characters if unicodedata.category(character) != "Cn")


@pytest.mark.parametrize("text", TRICKY)
def test_tricky_text_gets_the_ids_of_openai(text: str, ours: ClipTokenizer, openai: Encoder) -> None:
    assert ours.encode(text) == openai.encode(text)


def test_every_emoji_caption_gets_the_ids_of_openai(ours: ClipTokenizer, openai: Encoder) -> None:
    captions = [name for concept in read_concepts() for name in (concept.caption, *concept.keywords)]
    assert [ours.encode(caption) for caption in captions] == [openai.encode(caption) for caption in captions]


def test_random_text_gets_the_ids_of_openai(ours: ClipTokenizer, openai: Encoder) -> None:
    draw = random.Random(0)
    texts = [random_text(draw) for _ in range(3000)]
    assert [text for text in texts if ours.encode(text) != openai.encode(text)] == []


def test_a_row_is_what_transformers_gives(ours: ClipTokenizer) -> None:
    transformers = pytest.importorskip("transformers")
    built = json.loads(ours.load().to_str())["model"]
    theirs = transformers.CLIPTokenizer(vocab=built["vocab"], merges=[tuple(merge) for merge in built["merges"]])
    texts = ["a diagram", "Café, 12 cats & a dog!", "it's   the king's"]
    rows = ours(texts)
    for row, text in zip(rows, texts, strict=True):
        ids = theirs(text)["input_ids"]
        np.testing.assert_array_equal(row, ids + [0] * (77 - len(ids)))


def test_rows_start_end_and_are_padded_with_zeros(ours: ClipTokenizer) -> None:
    ids_BT = ours(["a photo of a cat", ""])
    assert (ids_BT.shape, ids_BT.dtype) == ((2, 77), np.dtype(np.int64))
    assert ids_BT[0].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407] + [0] * 70
    assert ids_BT[1].tolist() == [49406, 49407] + [0] * 75
    assert ours([]).shape == (0, 77)


def test_a_long_text_loses_its_tail_and_keeps_its_end(archive: Path) -> None:
    (row,) = ClipTokenizer(context_length=5)(["a photo of a cat"])
    assert row.tolist() == [49406, 320, 1125, 539, 49407]


def test_nothing_is_read_before_the_first_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    tokenizer = ClipTokenizer(cache_dir=tmp_path / "empty")
    assert len(tokenizer.fingerprint) == 64
    assert not (tmp_path / "empty").exists()
    with pytest.raises(DataError, match="clip-anytorch"):
        tokenizer.load()


def test_the_fingerprint_follows_what_changes_the_ids() -> None:
    assert ClipTokenizer().fingerprint == ClipTokenizer(cache_dir="elsewhere").fingerprint
    assert ClipTokenizer().fingerprint != ClipTokenizer(context_length=16).fingerprint


def test_a_context_without_room_for_text_is_refused() -> None:
    with pytest.raises(ConfigError, match="context_length is 1"):
        ClipTokenizer(context_length=1)


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_it_serves_in_forked_and_in_pickled_workers(ours: ClipTokenizer) -> None:
    expected = ours(["two cats"])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(ours))(["two cats"]), expected)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        np.testing.assert_array_equal(pool.apply_async(ours, (["two cats"],)).get(30), expected)
