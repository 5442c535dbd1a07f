"""Rows as BERT reads them: ``[CLS] A [SEP]`` or ``[CLS] A [SEP] B [SEP]``, filled up to one length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmtrain.data.decode.text_tokenizer import TextTokenizer
from mmtrain.errors import ConfigError

IntArray = NDArray[np.int64]


class SegmentRow(NamedTuple):
    """A row of T places.

    Attributes:
        tokens: Ids, with the pad token from ``length`` on, int64, shape ``(T,)``.
        segment: 1 in B and its end token, else 0, int64, shape ``(T,)``.
        length: Tokens of the row.
    """

    tokens: IntArray
    segment: IntArray
    length: int


class SegmentRows:
    """Makes rows of one length.

    Args:
        tokenizer: Has the tokens that BERT's rows need.
        row_length: T, places of a row.

    Raises:
        ConfigError: The tokenizer lacks a pad, first or end token.
    """

    def __init__(self, tokenizer: TextTokenizer, row_length: int) -> None:
        self.row_length = row_length
        self.pad = require_token(tokenizer, "pad", tokenizer.pad)
        self.cls = require_token(tokenizer, "cls", tokenizer.cls)
        self.sep = require_token(tokenizer, "sep", tokenizer.sep)

    def __call__(self, *segments: Sequence[int] | IntArray) -> SegmentRow:
        """The row of one or two segments that fit, see `room`."""
        tokens, segment = np.full(self.row_length, self.pad, np.int64), np.zeros(self.row_length, np.int64)
        tokens[0] = self.cls
        end = 1
        for number, part in enumerate(segments):
            start, end = end, end + len(part) + 1
            assert end <= self.row_length, "the caller cuts the segments"
            tokens[start : end - 1] = part
            tokens[end - 1] = self.sep
            segment[start:end] = number
        return SegmentRow(tokens, segment, end)


def room(row_length: int, segments: int, setting: str) -> int:
    """Tokens of text that a row with so many segments has room for.

    Raises:
        ConfigError: Not one for each segment; ``setting`` names what sets the row's length.
    """
    special = segments + 1
    if row_length < special + segments:
        reason = f"{setting} is {row_length}, of which special tokens take {special} and each text at least 1"
        mend = f"set data.{setting}={special + segments} or more; BERT's are 128 and 512"
        raise ConfigError(reason, where=f"data.{setting}", mend=mend)
    return row_length - special


def require_token(tokenizer: TextTokenizer, name: str, number: int | None) -> int:
    """The id of a special token.

    Raises:
        ConfigError: The tokenizer has none.
    """
    if number is None:
        mend = "take a BERT tokenizer, such as minilm, or train one: python -m mmtrain data tokenizer"
        reason = f"the tokenizer {tokenizer.name} has no {name} token"
        raise ConfigError(reason, where="data.tokenizer", mend=mend)
    return number
