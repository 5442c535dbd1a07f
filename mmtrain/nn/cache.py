"""Keys and values of the tokens that a decoder has seen, so that the next one costs one token's work.

Shape suffixes: B rows, T new tokens of a row, S tokens that are kept, G key and value heads, K head width.
"""

from __future__ import annotations

import torch
from torch import Tensor


class KVCache:
    """Keys and values of every layer, for rows of different lengths.

    A row's token at position p is kept at place p, and sees the places 0 to p. What lies beyond is seen by nobody, and
    the next token of the row takes its place: so prompts of different lengths are padded at their end, and no mask has
    to be carried along.

    Memory is taken with the first tokens, for as many rows and heads as these have.

    Args:
        num_layers: Layers of the model.
        max_length: Most tokens of a row, prompt included.
    """

    def __init__(self, *, num_layers: int, max_length: int) -> None:
        self._step = _Step(max_length)
        self.layers = [LayerCache(self._step) for _ in range(num_layers)]
        self.max_length = max_length

    def place(self, position_BT: Tensor, longest: int) -> None:
        """Says where the next tokens belong, before the model runs on them.

        Args:
            position_BT: Position of each new token in its row.
            longest: Places that are in use afterwards, in any row; no more than ``max_length``.
        """
        assert longest <= self.max_length, f"{longest} tokens do not fit in a cache for {self.max_length}"
        self._step.position_BT = position_BT
        place_S = torch.arange(longest, device=position_BT.device)
        self._step.mask_B1TS = (place_S <= position_BT[..., None])[:, None]


class _Step:
    """Where the tokens of one forward pass belong, for all layers."""

    position_BT: Tensor
    mask_B1TS: Tensor

    def __init__(self, max_length: int) -> None:
        self.max_length = max_length


class LayerCache:
    """Keys and values of one layer: a part of a `KVCache`."""

    _k_BSGK: Tensor | None = None
    _v_BSGK: Tensor | None = None

    def __init__(self, step: _Step) -> None:
        self._step = step

    def extend(self, k_BTGK: Tensor, v_BTGK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Keeps new keys and values; returns all ``(B, S, G, K)``, and which of them a token sees ``(B, 1, T, S)``."""
        if self._k_BSGK is None or self._v_BSGK is None:
            shape = (len(k_BTGK), self._step.max_length, *k_BTGK.shape[2:])
            self._k_BSGK, self._v_BSGK = k_BTGK.new_zeros(shape), v_BTGK.new_zeros(shape)
        row = torch.arange(len(k_BTGK), device=k_BTGK.device)[:, None]
        self._k_BSGK[row, self._step.position_BT] = k_BTGK
        self._v_BSGK[row, self._step.position_BT] = v_BTGK
        mask = self._step.mask_B1TS
        longest = mask.shape[-1]
        return self._k_BSGK[:, :longest], self._v_BSGK[:, :longest], mask
