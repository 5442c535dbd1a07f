"""A text file as a data set: nanoGPT's split and ids, and mistakes told."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmtrain.data.decode.text_tokenizer import TextTokenizer
from mmtrain.data.fetch.reader import ShardReader
from mmtrain.data.loader.packed import read_tokens
from mmtrain.data.packed_text import PackedText
from mmtrain.data.shards.build import open_shards
from mmtrain.data.sources.text_file import TextFile, cut
from mmtrain.errors import ConfigError, DataError

TEXT = "".join(f"Speaker {number}:\nWhat say you, größer {number * 7}?\r\n\n" for number in range(60)) + "€nd"


def ids_of(folder: Path) -> list[int]:
    reader = ShardReader(open_shards(folder))
    return [int(token) for number in range(len(reader)) for token in read_tokens(reader.read(number))]


def test_ids_and_split_are_nanogpts(tmp_path: Path) -> None:
    (tmp_path / "input.txt").write_bytes(TEXT.encode())
    TextFile(tmp_path / "input.txt", document_length=100).prepare(tmp_path / "set")
    numbers = {letter: number for number, letter in enumerate(sorted(set(TEXT)))}
    edge = int(0.9 * len(TEXT))
    assert ids_of(tmp_path / "set" / "train") == [numbers[letter] for letter in TEXT[:edge]]
    assert ids_of(tmp_path / "set" / "val") == [numbers[letter] for letter in TEXT[edge:]]
    assert TextTokenizer(tmp_path / "set" / "tokenizer").vocab_size == len(numbers), "no token stands between documents"


def test_it_trains_and_evaluates(tmp_path: Path) -> None:
    (tmp_path / "input.txt").write_text(TEXT)
    source = TextFile(tmp_path / "input.txt", document_length=100)
    data = PackedText(
        root=tmp_path / "set", source=source, sequence_length=24, global_batch_size=4, lanes=2, num_workers=0
    )
    data.prepare()
    batch = next(iter(data.train_loader(0, 1)))
    assert "".join(TEXT.split()).find("".join(data.tokenizer.decode(batch["tokens"][0, :12].tolist()).split())) >= 0
    assert data.eval_loaders(0, 1)["val"].tokens == len(TEXT) - int(0.9 * len(TEXT)) - 1


@given(st.text(st.sampled_from("ab\n")), st.integers(1, 8))
def test_pieces_joined_are_the_text(text: str, length: int) -> None:
    pieces = cut(text, length)
    assert "".join(pieces) == text
    assert all(0 < len(piece) <= length for piece in pieces)
    assert all(piece.endswith("\n") or (len(piece) == length and "\n" not in piece) for piece in pieces[:-1])


def test_a_missing_file_says_where_the_usual_one_comes_from(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: No such file") as refused:
        TextFile(tmp_path / "input.txt").prepare(tmp_path / "set")
    assert "tinyshakespeare/input.txt" in str(refused.value.mend) and "data.source.path" in str(refused.value.mend)
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(("content", "message"), [(b" \n", "empty"), (b"\xff\xfe", "not UTF-8")])
def test_a_file_without_text_is_told(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "input.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        TextFile(tmp_path / "input.txt").prepare(tmp_path / "set")


def test_another_file_needs_another_folder(tmp_path: Path) -> None:
    (tmp_path / "input.txt").write_text(TEXT)
    TextFile(tmp_path / "input.txt").prepare(tmp_path / "set")
    (tmp_path / "input.txt").write_text(TEXT + "!")
    with pytest.raises(DataError, match="made with text"):
        TextFile(tmp_path / "input.txt").prepare(tmp_path / "set")


def test_settings_out_of_range_are_told() -> None:
    with pytest.raises(ConfigError, match="val_fraction is 1.5"):
        TextFile("a", val_fraction=1.5)
    with pytest.raises(ConfigError, match="document_length is 0"):
        TextFile("a", document_length=0)
    with pytest.raises(ConfigError, match="for each one in the texts"):
        TextFile("a", vocab_size=5)
