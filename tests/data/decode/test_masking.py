from __future__ import annotations

import math

import numpy as np
import pytest

from mmtrain.data.decode.masking import Masking
from mmtrain.data.plan.draw import SampleSeed, Stream
from mmtrain.errors import ConfigError

VOCABULARY = 1000
SPECIAL = np.arange(VOCABULARY) < 5
MASK = 4
CONTINUATION = np.arange(VOCABULARY) % 3 == 0
TOKENS = np.concatenate([[2], np.random.default_rng(0).integers(5, VOCABULARY, 200), [3], np.arange(5, 105), [3]])


def generator(sample: int = 0, epoch: int = 0, seed: int = 0) -> np.random.Generator:
    return SampleSeed(seed, epoch, sample).generator(Stream.MASK)


def in_bounds(successes: int, trials: int, share: float) -> bool:
    """Within the central 99.99% of the binomial distribution, summed exactly."""
    logs = [
        math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1)
        + k * math.log(share) + (trials - k) * math.log1p(-share)
        for k in range(trials + 1)
    ]  # fmt: skip
    mass = np.exp(logs)
    return bool(mass[: successes + 1].sum() > 5e-5 and mass[successes:].sum() > 5e-5)


def words_of(tokens: np.ndarray) -> list[list[int]]:
    """Positions of each word."""
    words: list[list[int]] = []
    for position, token in enumerate(tokens):
        if SPECIAL[token]:
            continue
        if CONTINUATION[token] and words and words[-1][-1] == position - 1:
            words[-1].append(position)
        else:
            words.append([position])
    return words


def test_eight_in_ten_become_the_mask_one_a_random_token_and_one_stays() -> None:
    masking = Masking(0.15, MASK, SPECIAL)
    masks = random = kept = total = 0
    for sample in range(200):
        tokens, position, label = masking(TOKENS, generator(sample))
        total += len(position)
        masks += int((tokens[position] == MASK).sum())
        kept += int((tokens[position] == label).sum())
        random += int(((tokens[position] != label) & (tokens[position] != MASK)).sum())
    assert masks + random + kept == total == 200 * 45
    same = 1 / (VOCABULARY - 5)  # a random token may be the one that stood there
    for count, share in ((masks, 0.8), (random, 0.1 * (1 - same)), (kept, 0.1 + 0.1 * same)):
        assert in_bounds(count, total, share), (count, share)


def test_a_sequence_has_a_fixed_count_and_is_the_same_elsewhere() -> None:
    for ratio, count in ((0.15, 45), (0.3, 90), (0.001, 1), (0.999, 300)):
        tokens, position, label = Masking(ratio, MASK, SPECIAL)(TOKENS, generator())
        assert len(position) == len(label) == count
        assert (np.diff(position) > 0).all()
        assert (label == TOKENS[position]).all()
        untouched = np.setdiff1d(np.arange(len(TOKENS)), position)
        assert (tokens[untouched] == TOKENS[untouched]).all()


def test_special_tokens_are_neither_masked_nor_drawn() -> None:
    masking = Masking(0.9, MASK, SPECIAL, mask_share=0.0, random_share=1.0)
    for sample in range(20):
        tokens, position, _ = masking(TOKENS, generator(sample))
        assert not SPECIAL[TOKENS[position]].any()
        assert not SPECIAL[tokens[position]].any()
    nothing = masking(np.array([2, 3, 3]), generator())
    assert (len(nothing.position), nothing.tokens.tolist()) == (0, [2, 3, 3])


def test_every_token_is_masked_equally_often() -> None:
    masking = Masking(0.2, MASK, SPECIAL)
    hits = np.zeros(len(TOKENS), int)
    for sample in range(600):
        hits[masking(TOKENS, generator(sample)).position] += 1
    expected = 600 * 0.2
    assert abs(hits[~SPECIAL[TOKENS]] - expected).max() < 5 * math.sqrt(expected * 0.8)


def test_draws_belong_to_the_seed_the_epoch_and_the_sample() -> None:
    masking = Masking(0.15, MASK, SPECIAL)
    first = masking(TOKENS, generator(3, 1, 7))
    for other in (generator(4, 1, 7), generator(3, 2, 7), generator(3, 1, 8)):
        assert not np.array_equal(first.position, masking(TOKENS, other).position)
    again = masking(TOKENS, generator(3, 1, 7))
    assert all(np.array_equal(one, two) for one, two in zip(first, again, strict=True))


def test_whole_words_are_masked_or_left_together() -> None:
    masking = Masking(0.15, MASK, SPECIAL, CONTINUATION)
    words = words_of(TOKENS)
    assert max(map(len, words)) > 2
    for sample in range(50):
        masked = set(masking(TOKENS, generator(sample)).position.tolist())
        assert all(masked.issuperset(word) or masked.isdisjoint(word) for word in words)
        assert len(masked) == 45, "there are words of one token to fill the count with"


def test_whole_words_never_exceed_the_count() -> None:
    masking = Masking(0.15, MASK, SPECIAL, CONTINUATION)
    pieces = np.array([2, 10, *[9] * 7, 10, *[9] * 3, 3])  # two words, of 8 and 4 tokens; 12 * 0.15 = 2 to mask
    assert len(masking(pieces, generator()).position) == 0
    masking = Masking(0.5, MASK, SPECIAL, CONTINUATION)  # 6 to mask: only the short word fits
    assert all(masking(pieces, generator(s)).position.tolist() == [9, 10, 11, 12] for s in range(10))


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.1, 1.5])
def test_a_ratio_outside_zero_to_one_is_refused(ratio: float) -> None:
    with pytest.raises(ConfigError, match=f"mask_ratio is {ratio}"):
        Masking(ratio, MASK, SPECIAL)


def test_shares_over_one_are_refused() -> None:
    with pytest.raises(ConfigError, match="leave -0.1"):
        Masking(0.15, MASK, SPECIAL, mask_share=0.9, random_share=0.2)
