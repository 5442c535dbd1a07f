"""Corruption of a sequence for masked language modelling (Devlin et al. 2018, arXiv:1810.04805, section 3.1).

The number of masked tokens is fixed by the sequence's length. So a batch has a bounded number of predictions, known
before any draw, and the model's head need only see those.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmtrain.errors import ConfigError

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


class Masked(NamedTuple):
    """A corrupted sequence.

    Attributes:
        tokens: What the model reads, int64, shape ``(T,)``.
        position: Where it predicts, ascending, int64, shape ``(M,)``.
        label: What stood there, int64, shape ``(M,)``.
    """

    tokens: IntArray
    position: IntArray
    label: IntArray


@dataclass(frozen=True, eq=False)
class Masking:
    """Masks ``max(1, round(ratio * n))`` of a sequence's n tokens that are not special.

    Each of these becomes the mask token with probability ``mask_share``, another token, uniformly, with
    ``random_share``, and else stays as it is.

    With ``continuation``, words are masked whole: they are taken in random order, each that still fits the count, as
    in BERT's ``create_pretraining_data.py``. The count is never exceeded; a sequence whose every word is longer than
    it stays unmasked.

    Args:
        ratio: Part of the tokens that is masked.
        mask_id: The mask token.
        special: Which ids of the vocabulary are never masked nor drawn, shape ``(V,)``.
        continuation: Which ids go on with the word before them, shape ``(V,)``; None masks single tokens.
        mask_share: Of the masked tokens, those that become the mask token.
        random_share: Of the masked tokens, those that become any token.

    Raises:
        ConfigError: ``ratio`` is not within (0, 1), or the shares are no parts of one.
    """

    ratio: float
    mask_id: int
    special: BoolArray
    continuation: BoolArray | None = None
    mask_share: float = 0.8
    random_share: float = 0.1

    def __post_init__(self) -> None:
        require_ratio(self.ratio, "mask_ratio")
        shares = (self.mask_share, self.random_share, 1 - self.mask_share - self.random_share)
        if min(shares) < -1e-9:
            reason = f"shares of {self.mask_share} masked and {self.random_share} random tokens leave {shares[2]:.3g}"
            raise ConfigError(reason, where="mask_share, random_share", mend="BERT's are 0.8 and 0.1")

    @cached_property
    def _ordinary(self) -> IntArray:
        return np.flatnonzero(~self.special)

    def count(self, maskable: int) -> int:
        """How many of so many tokens that are not special are masked."""
        return min(maskable, max(1, round(self.ratio * maskable)))

    def __call__(self, tokens: IntArray, generator: np.random.Generator) -> Masked:
        """Corrupts a sequence, shape ``(T,)``, which stays as it is; draws depend on its tokens alone."""
        maskable = np.flatnonzero(~self.special[tokens])
        count = self.count(len(maskable))
        if self.continuation is None:
            position = _draw(maskable, count, generator)
        else:
            position = self._draw_words(tokens, maskable, count, generator)
        label = tokens[position]
        kind, other = generator.random((2, len(position)))
        random = self._ordinary[(other * len(self._ordinary)).astype(np.int64)]
        replaced = np.where(kind < self.mask_share + self.random_share, random, label)
        corrupted = tokens.copy()
        corrupted[position] = np.where(kind < self.mask_share, self.mask_id, replaced)
        return Masked(corrupted, position, label)

    def _draw_words(self, tokens: IntArray, maskable: IntArray, count: int, generator: np.random.Generator) -> IntArray:
        assert self.continuation is not None
        follows = np.diff(maskable, prepend=-2) == 1  # a special token ends a word, too
        word = np.cumsum(~(self.continuation[tokens[maskable]] & follows)) - 1
        sizes = np.bincount(word).tolist()
        taken = np.zeros(len(sizes), bool)
        for candidate in np.argsort(generator.random(len(sizes)), kind="stable").tolist():
            if count == 0:
                break
            if sizes[candidate] <= count:
                taken[candidate] = True
                count -= sizes[candidate]
        return maskable[taken[word]]


def require_ratio(ratio: float, name: str) -> None:
    """Raises a `ConfigError` where a ratio of masked tokens is not within (0, 1)."""
    if not 0 < ratio < 1:
        reason = f"{name} is {ratio}: a ratio of masked tokens lies between 0 and 1, both excluded"
        raise ConfigError(reason, where=f"data.{name}", mend=f"set data.{name}=0.15, as BERT does")


def _draw(maskable: IntArray, count: int, generator: np.random.Generator) -> IntArray:
    chosen = np.argsort(generator.random(len(maskable)), kind="stable")[:count]
    return np.sort(maskable[chosen])
