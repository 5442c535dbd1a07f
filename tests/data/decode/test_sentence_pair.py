from __future__ import annotations

import random

import numpy as np
import pytest

from mmtrain.data.decode.sentence_pair import (
    IS_NEXT,
    IS_RANDOM,
    Document,
    Pair,
    draw_pair,
    longest_first,
    truncate_pair,
)
from mmtrain.data.plan.draw import SampleSeed, Stream


def document(number: int, *lengths: int) -> Document:
    """Tokens that tell their document (thousands) and place."""
    return Document(number * 1000 + np.arange(sum(lengths)), np.cumsum(lengths))


OTHERS = [document(number, 5, 9, 3, 12) for number in range(2, 6)]


def other(draw: float) -> Document:
    return OTHERS[int(draw * len(OTHERS))]


def pair(of: Document, sample: int, max_tokens: int = 40, first: int = 0, short: float = 0.1) -> Pair:
    generator = SampleSeed(0, 0, sample).generator(Stream.PAIR)
    return draw_pair(of, first, other, max_tokens, generator, short_probability=short)


def test_half_of_the_pairs_follow_and_half_come_from_another_document() -> None:
    pairs = [pair(document(1, 6, 4, 8, 7, 9, 5), sample) for sample in range(2000)]
    is_random = np.array([drawn.label == IS_RANDOM for drawn in pairs])
    short_of_one_sentence = 0.1 * 5 / 39  # targets 2 to 6: the first sentence fills them, and B must be random
    assert abs(is_random.mean() - (0.5 + short_of_one_sentence / 2)) < 4 * 0.5 / 2000**0.5
    assert all((drawn.b // 1000 == 1).all() == (drawn.label == IS_NEXT) for drawn in pairs)
    assert all((drawn.a // 1000 == 1).all() for drawn in pairs)
    partners = {int(drawn.b[0]) // 1000 for drawn in pairs if drawn.label == IS_RANDOM}
    assert partners == {2, 3, 4, 5}


def test_what_is_next_follows_and_segments_are_whole_sentences_that_fit() -> None:
    of, ends = document(1, 6, 4, 8, 7, 9, 5), {0, 6, 10, 18, 25, 34, 39}
    cuts = set()
    for sample in range(300):
        a, b, label = pair(of, sample, max_tokens=39, short=0.0)
        assert len(a) and len(b) and len(a) + len(b) <= 39
        if label == IS_NEXT:
            assert np.concatenate([a, b]).tolist() == of.tokens.tolist()
            cuts.add(len(a))
    assert cuts == ends - {0, 39}


def test_a_pair_begins_where_it_is_told() -> None:
    of = document(1, 6, 4, 8, 7, 9, 5)
    for sample in range(50):
        a, b, label = pair(of, sample, max_tokens=100, first=2, short=0.0)
        assert a[0] == 1010
        if label == IS_NEXT:
            assert b[-1] == 1038


def test_a_document_of_one_sentence_is_followed_by_another() -> None:
    assert {pair(document(1, 20), sample).label for sample in range(40)} == {IS_RANDOM}


def test_short_pairs_come_with_their_probability() -> None:
    of = document(1, *[1] * 200)
    lengths = np.array([sum(map(len, pair(of, s, max_tokens=100)[:2])) for s in range(1500) if pair(of, s).label == 0])
    assert lengths.max() == 100
    assert 0.05 < (lengths < 100).mean() < 0.15
    assert lengths.min() < 20


def test_truncation_takes_from_front_and_back_of_the_longer() -> None:
    generator = np.random.default_rng(0)
    fronts = []
    for _ in range(200):
        a, b = truncate_pair(np.arange(100), np.arange(30), 60, generator)
        assert (len(a), b.tolist()) == (30, list(range(30)))
        assert a.tolist() == list(range(a[0], a[0] + 30))
        fronts.append(a[0])
    assert abs(np.mean(fronts) - 35) < 2


@pytest.mark.parametrize("seed", range(3))
def test_lengths_are_those_of_the_published_loop(seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(300):
        a, b, most = draw.randint(1, 30), draw.randint(1, 30), draw.randint(2, 40)
        expected = [a, b]
        while sum(expected) > most:
            expected[0 if expected[0] > expected[1] else 1] -= 1
        assert longest_first(a, b, most) == tuple(expected)
