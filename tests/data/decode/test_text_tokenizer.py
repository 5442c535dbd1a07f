"""One tokenizer of texts: the same ids as Hugging Face's, wherever it was opened."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, BertTokenizer, GPT2Config

from mmtrain.data.decode import vocabularies
from mmtrain.data.decode.text_tokenizer import TextTokenizer
from mmtrain.data.decode.tokenizer import ClipTokenizer
from mmtrain.data.pack.train_tokenizer import train, write_tokenizer
from mmtrain.errors import ConfigError, DataError

TEXT = "Hello  World, größer \U0001f600 don't\nnew line\t<|endoftext|> café naïve 東京!!"
LINES = ["The cat sat on the mat.", "A dog; another dog!", "größer als die Katze", "don't say \U0001f600 twice"] * 3
VOCABULARY = b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\nThe\ncat\n##s\ncafe\ncaf\xc3\xa9\n!\n\xe6\x9d\xb1\n"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each kind."""
    home, found = tmp_path_factory.mktemp("tokenizers"), {}
    for kind, size, lower in (("bpe", 300, False), ("wordpiece", 120, True), ("char", None, False)):
        found[kind] = home / kind
        write_tokenizer(train(lambda: iter([*LINES, TEXT]), kind=kind, vocab_size=size, lower_case=lower), home / kind)
    for name in ("bytes", "clip", "minilm"):
        TextTokenizer(name).save(home / name)
        found[name] = home / name
    return found


@pytest.mark.parametrize("name", ["bpe", "wordpiece", "char", "bytes", "clip", "minilm"])
def test_auto_tokenizer_gives_the_same(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    ours = TextTokenizer(folders[name])
    ours.save(tmp_path, max_length=77)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    ids = ours.encode(TEXT)
    assert ids == theirs.encode(TEXT, add_special_tokens=False)
    assert ours.encode(TEXT, special_tokens=True) == theirs.encode(TEXT)
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
    assert ours.decode(ids, skip_special_tokens=False) == theirs.decode(ids)
    for token in ("pad", "eos", "bos", "cls", "sep", "mask", "unk"):
        assert getattr(ours, token) == getattr(theirs, f"{token}_token_id"), token
    assert (ours.vocab_size, theirs.model_max_length) == (len(theirs), 77)


def test_auto_tokenizer_gives_the_same_beside_a_models_configuration(folders: dict[str, Path], tmp_path: Path) -> None:
    ours = TextTokenizer(folders["bpe"])
    ours.save(tmp_path)
    GPT2Config(vocab_size=ours.vocab_size).save_pretrained(tmp_path)
    encoded = AutoTokenizer.from_pretrained(tmp_path)(TEXT)
    assert (encoded["input_ids"], set(encoded)) == (ours.encode(TEXT), {"input_ids", "attention_mask"})


@pytest.mark.parametrize("lower_case", [True, False])
def test_a_vocabulary_of_bert_is_read_as_its_configuration_says(lower_case: bool, tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes(VOCABULARY)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": lower_case}))
    ours, theirs = TextTokenizer(tmp_path), BertTokenizer.from_pretrained(tmp_path)
    for text in ("The cats!", "café 東 caf [MASK] the"):
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False)
    pair = theirs("The cats", "the café")
    ours.save(tmp_path / "saved")
    saved = AutoTokenizer.from_pretrained(tmp_path / "saved")("The cats", "the café")
    assert (saved["input_ids"], saved["token_type_ids"]) == (pair["input_ids"], pair["token_type_ids"])
    assert (ours.encode("The")[0] == 5) == lower_case
    assert (ours.pad, ours.cls, ours.sep, ours.mask, ours.unk, ours.eos, ours.bos) == (0, 2, 3, 4, 1, None, None)


def test_saved_and_opened_again_it_is_the_same(folders: dict[str, Path], tmp_path: Path) -> None:
    for name, folder in folders.items():
        first = TextTokenizer(name if name in ("bytes", "clip", "minilm") else folder)
        first.save(tmp_path / name)
        second = TextTokenizer(tmp_path / name / "tokenizer.json")
        assert (second.fingerprint, second.eos, second.mask) == (first.fingerprint, first.eos, first.mask)


def test_the_fingerprints_of_our_own_never_change() -> None:
    assert {name: TextTokenizer(name).fingerprint[:16] for name in ("bytes", "clip", "minilm")} == {
        "bytes": "ef9a3e1b90d6a028",
        "clip": "9d23dd3bf2c8799e",
        "minilm": "177c024791613127",
    }


def test_bytes_are_their_own_ids() -> None:
    text = "a\x00\né\U0001f600 \ufffd"
    tokenizer = TextTokenizer("bytes")
    assert tokenizer.encode(text) == list(text.encode())
    assert (tokenizer.vocab_size, tokenizer.eos, tokenizer.pad) == (257, 256, None)


def test_clip_gives_clips_ids_of_clean_text() -> None:
    texts = [*LINES, "  An  astronaut's\tcat, on THE moon!  "]
    ours, clip = TextTokenizer("clip"), ClipTokenizer()
    assert ours.encode_batch(texts) == [clip.encode(text) for text in texts]
    assert ours.encode("a cat", special_tokens=True) == [clip.sot, *clip.encode("a cat"), clip.eot]


@pytest.mark.parametrize("name", ["bpe", "char", "bytes"])
def test_text_comes_back_and_its_bytes_are_counted(name: str, folders: dict[str, Path]) -> None:
    tokenizer = TextTokenizer(folders[name])
    counts = tokenizer.token_bytes()
    assert (counts.dtype, counts.shape) == (np.int64, (tokenizer.vocab_size,))
    text = TEXT.replace("<|endoftext|>", "")
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert counts[ids].sum() == len(text.encode())
    if tokenizer.eos is not None:
        assert counts[tokenizer.eos] == 0
        assert tokenizer.decode([*ids, tokenizer.eos]) == text


def test_bytes_of_word_pieces_count_a_space_a_word(folders: dict[str, Path]) -> None:
    tokenizer = TextTokenizer(folders["minilm"])
    counts = tokenizer.token_bytes()
    assert counts[tokenizer.encode("Unbelievable   café")].sum() == len(" unbelievable cafe")
    assert counts[[tokenizer.cls, tokenizer.pad, tokenizer.unk]].sum() == 0
    clip = TextTokenizer("clip")
    assert clip.token_bytes()[clip.encode("Größe  of cats")].sum() == len("größe of cats ".encode())


@pytest.mark.parametrize("name", ["bpe", "wordpiece", "char", "bytes", "clip"])
def test_a_stream_gives_the_text_piece_by_piece(name: str, folders: dict[str, Path]) -> None:
    tokenizer = TextTokenizer(folders[name])
    ids = tokenizer.encode(TEXT)
    ids[5:5] = sorted(tokenizer.special_ids)[:1]
    stream = tokenizer.stream()
    pieces = [stream.push(token) for token in ids]
    assert "".join(pieces) + stream.end() == tokenizer.decode(ids)
    assert not any("\ufffd" in piece for piece in pieces), "half a character was shown"
    assert sum(1 for piece in pieces if piece) > len(ids) // 2


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 256), max_size=40))
def test_a_stream_of_any_bytes_gives_what_decode_gives(ids: list[int]) -> None:
    tokenizer = TextTokenizer("bytes")
    stream = tokenizer.stream()
    assert "".join(map(stream.push, ids)) + stream.end() == tokenizer.decode(ids)


def test_a_token_starts_where_its_text_starts(folders: dict[str, Path]) -> None:
    for name in ("bpe", "char", "bytes", "minilm"):
        tokenizer = TextTokenizer(folders[name])
        ids, starts = tokenizer.encode_with_starts("The größer cat")
        assert ids == tokenizer.encode("The größer cat")
        assert starts[0] == 0 and starts == sorted(starts) and starts[-1] < len("The größer cat")


def test_a_character_that_was_never_seen_is_named(folders: dict[str, Path]) -> None:
    with pytest.raises(DataError, match="no character 'Ω'") as refused:
        TextTokenizer(folders["char"]).encode("The Ω")
    assert "data tokenizer" in str(refused.value.mend)


def test_nothing_is_read_before_it_is_needed(tmp_path: Path) -> None:
    tokenizer = TextTokenizer(tmp_path / "later")
    assert tokenizer.name == "later"
    with pytest.raises(ConfigError, match="no tokenizer"):
        tokenizer.load()
    TextTokenizer("bytes").save(tmp_path / "later")
    assert tokenizer.encode("ab") == [97, 98]


def encode_in_child(tokenizer: TextTokenizer) -> list[int]:
    return tokenizer.encode(TEXT)


def test_copies_in_other_processes_give_the_same(folders: dict[str, Path]) -> None:
    tokenizer = TextTokenizer(folders["bpe"]).load()
    expected = tokenizer.encode(TEXT)
    assert len(pickle.dumps(tokenizer)) < 1000
    assert pickle.loads(pickle.dumps(tokenizer)).encode(TEXT) == expected
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply_async(encode_in_child, (tokenizer,)).get(60) == expected


def test_a_fork_after_a_batch_says_nothing() -> None:
    program = """
import os
from mmtrain.data.decode.text_tokenizer import TextTokenizer
tokenizer = TextTokenizer("bytes")
tokenizer.encode_batch(["a text"] * 100)
child = os.fork()
tokenizer.encode_batch(["a text"] * 100)
if child:
    os.waitpid(child, 0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""


def test_names_of_special_tokens_come_from_the_configuration(folders: dict[str, Path], tmp_path: Path) -> None:
    content = (folders["bpe"] / "tokenizer.json").read_bytes()
    (tmp_path / "tokenizer.json").write_bytes(content)
    assert TextTokenizer(tmp_path).eos is None, "a bare file says nothing, and nothing is guessed"
    assert TextTokenizer(tmp_path, eos_token="<|endoftext|>").eos == TextTokenizer(folders["bpe"]).eos
    (tmp_path / "special_tokens_map.json").write_text('{"eos_token": {"content": "<|endoftext|>"}, "pad_token": "The"}')
    assert TextTokenizer(tmp_path).eos is not None
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    with pytest.raises(ConfigError, match="no token '</s>'") as refused:
        TextTokenizer(tmp_path).load()
    assert refused.value.mend == "its special tokens are <|endoftext|>"


def test_bert_vocabularies_of_the_old_file_know_their_special_tokens(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((folders["wordpiece"] / "tokenizer.json").read_bytes())
    assert TextTokenizer(tmp_path).mask == TextTokenizer(folders["wordpiece"]).mask is not None


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", b"{}", "not a tokenizer"),
        ("tokenizer.json", b"\xff", "not a tokenizer"),
        ("vocab.txt", VOCABULARY.partition(b"[MASK]")[0], "has no .*MASK"),
        ("vocab.txt", VOCABULARY + b"cat\n", "repeats line 8, 'cat'"),
        ("vocab.txt", VOCABULARY.replace(b"cat", b""), "this line is empty"),
        ("vocab.txt", VOCABULARY[:-2], "UTF-8"),
    ],
)
def test_a_damaged_file_is_told(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as refused:
        TextTokenizer(tmp_path).load()
    assert str(tmp_path / name) in str(refused.value.where)


@pytest.mark.parametrize("content", ["[]", "{"])
def test_a_damaged_configuration_is_told(content: str, folders: dict[str, Path], tmp_path: Path) -> None:
    TextTokenizer(folders["bpe"]).save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(content)
    with pytest.raises(DataError, match="not a tokenizer's configuration"):
        TextTokenizer(tmp_path).load()


def test_a_wrong_name_is_told() -> None:
    with pytest.raises(ConfigError, match="no tokenizer 'byts'") as refused:
        TextTokenizer("byts").load()
    assert "did you mean 'bytes'?" in str(refused.value.mend)
    with pytest.raises(ConfigError, match="end token of its own"):
        TextTokenizer("bytes", eos_token="x")


def test_the_table_of_bytes_is_gpt2s() -> None:
    symbols = vocabularies.byte_symbols()
    assert len(set(symbols)) == 256
    assert (symbols[ord("A")], symbols[ord(" ")], symbols[0], symbols[255]) == ("A", "Ġ", "Ā", "ÿ")
