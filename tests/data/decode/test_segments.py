from __future__ import annotations

from pathlib import Path

import pytest
from words import word_tokenizer

from mmtrain.data.decode.segments import SegmentRows, room
from mmtrain.data.decode.text_tokenizer import TextTokenizer
from mmtrain.errors import ConfigError


def test_a_row_is_what_bert_reads(tmp_path: Path) -> None:
    rows = SegmentRows(word_tokenizer(tmp_path), 9)
    pair = rows([10, 11], [12])
    assert pair.tokens.tolist() == [2, 10, 11, 3, 12, 3, 0, 0, 0]
    assert pair.segment.tolist() == [0, 0, 0, 0, 1, 1, 0, 0, 0]
    assert pair.length == 6
    single = rows([10, 11, 12, 13, 14, 15, 16])
    assert (single.tokens.tolist(), single.segment.sum(), single.length) == ([2, *range(10, 17), 3], 0, 9)


def test_a_row_without_room_for_text_is_refused() -> None:
    assert room(5, 2, "sequence_length") == 2
    with pytest.raises(ConfigError, match="sequence_length is 4, of which special tokens take 3") as caught:
        room(4, 2, "sequence_length")
    assert str(caught.value.mend).startswith("set data.sequence_length=5 or more")


def test_a_tokenizer_without_berts_tokens_is_refused() -> None:
    with pytest.raises(ConfigError, match="the tokenizer bytes has no pad token"):
        SegmentRows(TextTokenizer("bytes"), 16)
