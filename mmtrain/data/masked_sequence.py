"""How a document becomes a masked sequence: its window, its segments, its masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmtrain.data.decode.masking import Masking
from mmtrain.data.decode.segments import SegmentRow, SegmentRows
from mmtrain.data.decode.sentence_pair import NO_PAIR, Document, draw_pair
from mmtrain.data.fetch.reader import ShardReader
from mmtrain.data.loader.packed import read_tokens
from mmtrain.data.plan.draw import SampleSeed, Stream
from mmtrain.data.plan.windows import Windows
from mmtrain.data.shards.index import RawSample
from mmtrain.errors import DataError

IGNORE = -100
"""The label of a place in which nothing is to be predicted."""

SENTENCES = "sentences.u32"
"""Extension of the member that says where sentences end."""


class Segmented(NamedTuple):
    """A row before it is masked, and ``IS_NEXT``, ``IS_RANDOM`` or ``NO_PAIR``."""

    row: SegmentRow
    next_sentence: int


@dataclass(frozen=True, eq=False)
class MaskedSequence:
    """Prepares a sample of `MaskedText`.

    Attributes:
        windows: Numbers the samples.
        rows: Makes rows.
        masking: Corrupts them.
        text_length: Tokens of a row that are no special ones.
        partners: All documents by their number, for pairs of segments; None makes rows of one.
        short_probability: Of a pair that is drawn shorter than the row.
    """

    windows: Windows
    rows: SegmentRows
    masking: Masking
    text_length: int
    partners: ShardReader | None
    short_probability: float

    def __call__(self, raw: RawSample, seed: SampleSeed) -> dict[str, Any]:
        row, next_sentence = self.segments(raw, seed)
        masked = self.masking(row.tokens[: row.length], seed.generator(Stream.MASK))
        most = self.masking.count(self.text_length)
        position, label = np.zeros(most, np.int64), np.full(most, IGNORE, np.int64)
        position[: len(masked.position)] = masked.position
        label[: len(masked.label)] = masked.label
        row.tokens[: row.length] = masked.tokens
        return {
            "tokens": row.tokens,
            "length": row.length,
            "segment": row.segment,
            "masked_position": position,
            "masked_label": label,
            "next_sentence": next_sentence,
            "key": raw["__key__"],
        }

    def segments(self, raw: RawSample, seed: SampleSeed) -> Segmented:
        """The sample before it is masked."""
        window = self.windows.window(seed.sample)
        draw = seed.generator(Stream.TEXT).random()
        if self.partners is None:
            tokens = self._tokens(raw)
            start = window.start(len(tokens), self.text_length, draw)
            return Segmented(self.rows(tokens[start : start + self.text_length]), NO_PAIR)
        document = self._document(raw)
        start = window.start(len(document.tokens), self.text_length, draw)
        a, b, label = draw_pair(
            document,
            int(np.searchsorted(document.ends, start, "right")),
            lambda uniform: self._partner(window.document, uniform),
            self.text_length,
            seed.generator(Stream.PAIR),
            short_probability=self.short_probability,
        )
        return Segmented(self.rows(a, b), label)

    def _partner(self, document: int, uniform: float) -> Document:
        """Any document but this one."""
        assert self.partners is not None
        drawn = int(uniform * (len(self.partners) - 1))
        number = drawn + (drawn >= document)
        try:
            return self._document(self.partners.read(number))
        except ValueError as error:
            raise ValueError(f"its partner, {self.partners.where(number)}: {error}") from error

    def _document(self, raw: RawSample) -> Document:
        tokens = self._tokens(raw)
        if SENTENCES not in raw:
            raise ValueError(f"it has no member .{SENTENCES}")
        ends = np.frombuffer(raw[SENTENCES], "<u4").astype(np.int64)
        if not len(ends) or ends[-1] < len(tokens) or ends[0] <= 0 or (ends[1:] <= ends[:-1]).any():
            raise ValueError(f"its sentences do not end one after another, up to its {len(tokens)} tokens")
        return Document(tokens, np.append(ends[ends < len(tokens)], len(tokens)))

    def _tokens(self, raw: RawSample) -> NDArray[np.int64]:
        """Without the special token at the end that a pack may have added: [SEP] ends a segment here."""
        tokens, special = read_tokens(raw).astype(np.int64), self.masking.special
        if len(tokens) and tokens.max() >= len(special):
            raise ValueError(f"its token {tokens.max()} is none of the vocabulary's {len(special)}")
        if len(tokens) and special[tokens[-1]]:
            tokens = tokens[:-1]
        if not len(tokens):
            raise ValueError("it has no tokens")
        return tokens


def require_pairs(documents: ShardReader) -> None:
    """Raises a `DataError` where a data set has no sentences to make pairs of, or no second document."""
    where = str(documents.manifest.path.parent)
    if len(documents) < 2:
        reason = "pairs need sentences of another document, and there is one"
        raise DataError(reason, where=where, mend="add documents, or set data.next_sentence=false")
    if SENTENCES not in documents.read(0):
        reason = "pairs need to know where sentences end, and the documents were packed without that"
        mend = "pack them with python -m mmtrain data pack text --sentences, or set data.next_sentence=false"
        raise DataError(reason, where=where, mend=mend)
