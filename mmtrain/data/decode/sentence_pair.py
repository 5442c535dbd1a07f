"""Sentence pairs for next sentence prediction (Devlin et al. 2018, arXiv:1810.04805, section 3.1 and appendix A.2).

The draws follow BERT's ``create_pretraining_data.py``, but for one thing: a document gives one pair at a time, from a
sentence that the caller names, so that a pair is a pure function of its sample.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

IS_NEXT, IS_RANDOM, NO_PAIR = 0, 1, -100

Tokens = NDArray[np.int64]


class Document(NamedTuple):
    """A document's tokens, shape ``(N,)``, and the token after each sentence's last one, ascending, shape ``(S,)``."""

    tokens: Tokens
    ends: NDArray[np.int64]

    def start(self, sentence: int) -> int:
        """The first token of a sentence."""
        return int(self.ends[sentence - 1]) if sentence else 0

    def up_to(self, sentence: int, num_tokens: int) -> int:
        """The end of the shortest run of sentences from this one on with so many tokens, or of the document: the
        number of the sentence after it."""
        needed = self.start(sentence) + num_tokens
        return min(int(np.searchsorted(self.ends, needed, "left")) + 1, len(self.ends))

    def span(self, first: int, stop: int) -> Tokens:
        """The tokens of the sentences ``first`` to ``stop``."""
        return self.tokens[self.start(first) : self.start(stop)]


class Pair(NamedTuple):
    """Segments A and B, and ``IS_NEXT`` (B follows A) or ``IS_RANDOM`` (B is of another document)."""

    a: Tokens
    b: Tokens
    label: int


def draw_pair(
    document: Document,
    first: int,
    other: Callable[[float], Document],
    max_tokens: int,
    generator: np.random.Generator,
    *,
    short_probability: float = 0.1,
) -> Pair:
    """Draws a pair whose A begins with sentence ``first``.

    Sentences are taken until they fill the target length: ``max_tokens``, or with ``short_probability`` any length from
    2 on, so that short inputs are met, too. A is a random number of them. B is the rest; or, with probability 1/2, as
    many tokens from a random sentence of another document on. Where one sentence fills the target or ends the
    document, nothing is left to follow, and B is random, as published; so slightly more than half of all pairs are.

    Args:
        document: Gives A.
        first: The sentence that A begins with.
        other: Gives another document for a number in [0, 1), uniform over all others; asked only where B is random.
        max_tokens: Most tokens of A and B together.
        generator: Of the sample.
        short_probability: Of a target below ``max_tokens``.
    """
    short, length, cut, coin, partner, sentence = generator.random(6).tolist()
    target = 2 + int(length * (max_tokens - 1)) if short < short_probability else max_tokens
    stop = document.up_to(first, target)
    sentences = stop - first
    a_stop = first + 1 + int(cut * (sentences - 1))
    a = document.span(first, a_stop)
    if sentences == 1 or coin < 0.5:
        source = other(partner)
        start = int(sentence * len(source.ends))
        b = source.span(start, source.up_to(start, max(1, target - len(a))))
        label = IS_RANDOM
    else:
        b = document.span(a_stop, stop)
        label = IS_NEXT
    return Pair(*truncate_pair(a, b, max_tokens, generator), label)


def truncate_pair(a: Tokens, b: Tokens, max_tokens: int, generator: np.random.Generator) -> tuple[Tokens, Tokens]:
    """Takes tokens off the longer segment, each from its front or its back with equal chance, until both fit."""
    keep_a, keep_b = longest_first(len(a), len(b), max_tokens)
    cut_a, cut_b = len(a) - keep_a, len(b) - keep_b
    is_front = generator.random(cut_a + cut_b) < 0.5
    front_a, front_b = int(is_front[:cut_a].sum()), int(is_front[cut_a:].sum())
    return a[front_a : front_a + keep_a], b[front_b : front_b + keep_b]


def longest_first(length_a: int, length_b: int, max_tokens: int) -> tuple[int, int]:
    """Lengths after tokens were taken off the longer one, one by one (of equals, off the second), until both fit."""
    if length_a + length_b <= max_tokens:
        return length_a, length_b
    half = max_tokens // 2
    if length_a <= half:
        return length_a, max_tokens - length_a
    if length_b <= half:
        return max_tokens - length_b, length_b
    return max_tokens - half, half
