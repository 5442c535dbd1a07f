"""Trained tokenizers: the same texts give the same bytes, in any process, and every text comes back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pack_case import write_table
from transformers import AutoTokenizer

from mmtrain.data.pack.train_tokenizer import train_tokenizer
from mmtrain.errors import ConfigError, DataError

WORDS = ("the", "cats", "sat", "größer", "und", "Katzen", "unbelievable", "naïve", "東京", "\U0001f600", "don't", "\n")
TEXTS = [" ".join(WORDS[(number * step) % len(WORDS)] for number in range(30)) + "." for step in range(1, 40)]
KINDS: list[tuple[Any, int | None]] = [("wordpiece", 200), ("bpe", 400), ("char", None)]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_table(tmp_path_factory.mktemp("texts") / "texts.jsonl", [{"text": text} for text in TEXTS])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


PROGRAM = """
import sys
from pathlib import Path
from mmtrain.data.pack.train_tokenizer import train_tokenizer
for kind, size in (("wordpiece", 200), ("bpe", 400), ("char", None)):
    train_tokenizer([sys.argv[1]], Path(sys.argv[2]) / kind, kind=kind, vocab_size=size)
"""


def test_the_same_texts_give_the_same_bytes_in_any_process(texts: Path, tmp_path: Path) -> None:
    # Hash tables, by whose order a library may number and break ties, differ from process to process.
    command = [sys.executable, "-c", PROGRAM, str(texts), str(tmp_path / "child")]
    subprocess.run(command, env=os.environ | {"RAYON_NUM_THREADS": "1"}, check=True, capture_output=True, timeout=120)
    for kind, size in KINDS:
        train_tokenizer([texts], tmp_path / "here" / kind, kind=kind, vocab_size=size)
        here, child = (contents(tmp_path / place / kind) for place in ("here", "child"))
        assert set(here) == {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}
        assert here == child


@pytest.mark.parametrize(("kind", "size"), [("bpe", 400), ("char", None)])
def test_every_text_comes_back(kind: Any, size: int | None, texts: Path, tmp_path: Path) -> None:
    made = train_tokenizer([texts], tmp_path / "out", kind=kind, vocab_size=size)
    assert made.decode_batch(made.encode_batch(TEXTS)) == TEXTS
    letters = sorted(set("".join(TEXTS)))
    if kind == "char":
        assert made.vocab_size == len(letters)
        assert made.encode("".join(letters)) == list(range(len(letters)))
        assert (made.eos, made.unk, made.special_ids) == (None, None, frozenset())
    else:
        assert 257 < made.vocab_size <= 400
        assert made.decode([made.eos or 0], skip_special_tokens=False) == "<|endoftext|>"
        assert made.encode("a<|endoftext|>") == [*made.encode("a"), made.eos], "by its name it is no text"

    any_text = st.text().filter(lambda text: "<|endoftext|>" not in text)  # hypothesis tries the strings of this file

    @settings(max_examples=100, deadline=None)
    @given(any_text if kind == "bpe" else st.text(st.sampled_from(letters)))
    def any_text_comes_back(text: str) -> None:
        ids = made.encode(text)
        assert made.decode(ids) == text
        assert made.token_bytes()[ids].sum() == len(text.encode())

    any_text_comes_back()


@pytest.mark.parametrize("lower_case", [True, False])
def test_word_pieces_are_berts(lower_case: bool, texts: Path, tmp_path: Path) -> None:
    made = train_tokenizer([texts], tmp_path, kind="wordpiece", vocab_size=200, lower_case=lower_case)
    assert [made.pad, made.unk, made.cls, made.sep, made.mask] == [0, 1, 2, 3, 4]
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    pieces = theirs.convert_ids_to_tokens(made.encode("Katzen GRÖSSER, zzz", special_tokens=True))
    assert (pieces[0], pieces[1], pieces[-1]) == ("[CLS]", "katzen" if lower_case else "Katzen", "[SEP]")
    assert made.unk not in made.encode(" ".join(TEXTS)), "each letter of the texts has a token"
    assert made.vocab_size <= 200


def test_a_small_vocabulary_keeps_the_most_frequent_letters(tmp_path: Path) -> None:
    path = write_table(tmp_path / "a.jsonl", [{"text": "aaaa aaa bb bbb c"}])
    made = train_tokenizer([path], tmp_path / "out", kind="wordpiece", vocab_size=10)
    assert made.vocab_size == 10
    assert made.unk not in made.encode("a b aa") and made.encode("c") == [made.unk]


@pytest.mark.parametrize(("kind", "size"), KINDS)
def test_texts_without_text_are_told(kind: Any, size: int | None, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(" \n\n ")
    with pytest.raises(DataError, match="empty|no text"):
        train_tokenizer([tmp_path / "a.txt"], tmp_path / "out", kind=kind, vocab_size=size, split_on="blank-line")
    with pytest.raises(DataError, match="is empty"):
        train_tokenizer([tmp_path / "a.txt"], tmp_path / "out", kind=kind, vocab_size=size)
    path = write_table(tmp_path / "a.jsonl", [{"text": "good"}, {"text": ""}])
    with pytest.raises(DataError, match="its 'text' is empty") as refused:
        train_tokenizer([path], tmp_path / "out", kind=kind, vocab_size=size)
    assert refused.value.where == f"{path}, line 2"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.jsonl", "a.txt"], "nothing is left behind"


def test_nothing_is_overwritten(texts: Path, tmp_path: Path) -> None:
    train_tokenizer([texts], tmp_path / "out", kind="char")
    before = contents(tmp_path / "out")
    with pytest.raises(DataError, match="there is something in the tokenizer's folder"):
        train_tokenizer([texts], tmp_path / "out", kind="bpe", vocab_size=300)
    assert contents(tmp_path / "out") == before
    assert json.loads(before["tokenizer.json"])["model"]["type"] == "BPE"


@pytest.mark.parametrize(
    ("options", "message", "mend"),
    [
        ({"kind": "wordpeice", "vocab_size": 100}, "no kind of tokenizer 'wordpeice'", "did you mean 'wordpiece'?"),
        ({"kind": "bpe", "vocab_size": 256}, "at least 257, not 256", "8192"),
        ({"kind": "wordpiece"}, "at least 7, not None", "8192"),
        ({"kind": "char", "vocab_size": 9}, "for each one in the texts", "leave it out"),
        ({"kind": "bpe", "vocab_size": 300, "lower_case": True}, "keeps the text as it is", "wordpiece"),
    ],
)
def test_a_wrong_option_is_told(options: dict[str, Any], message: str, mend: str, texts: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        train_tokenizer([texts], tmp_path / "out", **options)
    assert mend in str(refused.value.mend)
