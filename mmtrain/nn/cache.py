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

    Args:
        num_layers: Layers of the model.
        batch_size: B.
        max_length: Most tokens of a row, prompt included.
        num_kv_heads: G.
        head_dim: K.
        dtype: Of the keys and values.
        device: Where they are kept.
    """

    def __init__(
        self,
        *,
        num_layers: int,
        batch_size: int,
        max_length: int,
        num_kv_heads: int,
        head_dim: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        shape = (batch_size, max_length, num_kv_heads, head_dim)
        self._step = _Step()
        self.layers = []
        for _ in range(num_layers):
            k, v = (torch.zeros(shape, dtype=dtype, device=device) for _ in range(2))
            self.layers.append(LayerCache(k, v, self._step))
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


class LayerCache:
    """Keys and values of one layer: a part of a `KVCache`."""

    def __init__(self, k_BSGK: Tensor, v_BSGK: Tensor, step: _Step) -> None:
        self._k_BSGK = k_BSGK
        self._v_BSGK = v_BSGK
        self._step = step

    def extend(self, k_BTGK: Tensor, v_BTGK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Keeps new keys and values; returns all ``(B, S, G, K)``, and which of them a token sees ``(B, 1, T, S)``."""
        row = torch.arange(len(k_BTGK), device=k_BTGK.device)[:, None]
        self._k_BSGK[row, self._step.position_BT] = k_BTGK.to(self._k_BSGK.dtype)
        self._v_BSGK[row, self._step.position_BT] = v_BTGK.to(self._v_BSGK.dtype)
        mask = self._step.mask_B1TS
        longest = mask.shape[-1]
        return self._k_BSGK[:, :longest], self._v_BSGK[:, :longest], mask
