"""Attention: one module, and the layouts that say which tokens of a batch see each other.

Shape suffixes: B rows, T tokens of a row, N tokens of all rows, D model width, H query heads, G key and value heads,
K head width, S keys that are kept.
"""

from __future__ import annotations

from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn

from mmtrain.nn.cache import LayerCache
from mmtrain.nn.linear import Linear
from mmtrain.nn.rope import Rotation, rotate


class Documents:
    """Rows that hold several documents: a token sees the tokens of its own document, and no other.

    Padding is a document of its own, whose tokens nobody else sees.

    Args:
        document_BT: Number of the document of each token, negative for padding. The tokens of a document are adjacent.
    """

    def __init__(self, document_BT: Tensor) -> None:
        self.document_BT = document_BT
        self._masks: dict[bool, Tensor] = {}
        self._edges: Tensor | None = None

    def attend(self, q_BTHK: Tensor, k_BTGK: Tensor, v_BTGK: Tensor, *, causal: bool, dropout: float) -> Tensor:
        """Attention within documents, ``(B, T, H, K)``."""
        if not _has_varlen(q_BTHK, dropout):
            return _dense(q_BTHK, k_BTGK, v_BTGK, mask=self._mask(causal), causal=False, dropout=dropout)
        q_NHK, k_NGK, v_NGK = (x.flatten(0, 1) for x in (q_BTHK, k_BTGK, v_BTGK))
        longest = self.document_BT.shape[1]
        return _varlen(q_NHK, k_NGK, v_NGK, self._documents(), longest, causal=causal).view_as(q_BTHK)

    def _mask(self, causal: bool) -> Tensor:
        if causal not in self._masks:
            same_BTT = self.document_BT[:, :, None] == self.document_BT[:, None, :]
            self._masks[causal] = (same_BTT.tril() if causal else same_BTT)[:, None]
        return self._masks[causal]

    def _documents(self) -> Tensor:
        """First token of each document in the flat rows, and the number of all tokens.

        Its length is a power of two, filled up with documents of no token, so that kernels compiled for one length
        serve most batches.
        """
        if self._edges is None:
            starts_BT = torch.ones_like(self.document_BT, dtype=torch.bool)
            starts_BT[:, 1:] = self.document_BT[:, 1:] != self.document_BT[:, :-1]
            starts = starts_BT.flatten().nonzero().flatten().int()
            length = 1 << len(starts).bit_length()
            self._edges = F.pad(starts, (0, length - len(starts)), value=self.document_BT.numel())
        return self._edges


class Unpadded:
    """Rows of different lengths without their padding: the real tokens of all rows as one flat row.

    What works on single tokens, which is most of a Transformer, then does so on real tokens only (Portes et al. 2023,
    arXiv:2312.17482, section 2.3).

    Args:
        length_B: Real tokens of each row, at its beginning; at least one.
        num_tokens: T, the tokens of a row with its padding.
    """

    def __init__(self, length_B: Tensor, num_tokens: int) -> None:
        self.length_B = length_B
        self.num_tokens = num_tokens
        real_BT = torch.arange(num_tokens, device=length_B.device) < length_B[:, None]
        self.index_N = real_BT.flatten().nonzero().flatten()

    def unpad(self, x_BT: Tensor) -> Tensor:
        """The real tokens of padded rows: ``(B, T, ...)`` to ``(N, ...)``."""
        return x_BT.flatten(0, 1)[self.index_N]

    def pad(self, x_N: Tensor) -> Tensor:
        """Padded rows, zero where there is no token: ``(N, ...)`` to ``(B, T, ...)``."""
        rows = len(self.length_B)
        x_BT = x_N.new_zeros(rows * self.num_tokens, *x_N.shape[1:]).index_copy(0, self.index_N, x_N)
        return x_BT.unflatten(0, (rows, self.num_tokens))

    def attend(self, q_NHK: Tensor, k_NGK: Tensor, v_NGK: Tensor, *, causal: bool, dropout: float) -> Tensor:
        """Attention within rows, ``(N, H, K)``."""
        if _has_varlen(q_NHK, dropout):
            edges = F.pad(self.length_B.cumsum(0), (1, 0)).int()
            return _varlen(q_NHK, k_NGK, v_NGK, edges, self.num_tokens, causal=causal)
        # Padded for the product of queries and keys alone, which is a few percent of a block's work.
        rows = self._tight
        q_BTHK, k_BTGK, v_BTGK = (rows.pad(x) for x in (q_NHK, k_NGK, v_NGK))
        # Padding is at the end of a row, where causality hides it from all real tokens.
        mask = None if causal else rows._mask
        return rows.unpad(_dense(q_BTHK, k_BTGK, v_BTGK, mask=mask, causal=causal, dropout=dropout))

    @cached_property
    def _tight(self) -> Unpadded:
        """The same rows, as long as the longest of them."""
        return Unpadded(self.length_B, int(self.length_B.max()))

    @cached_property
    def _mask(self) -> Tensor:
        return (torch.arange(self.num_tokens, device=self.length_B.device) < self.length_B[:, None])[:, None, None]


Layout = Documents | Unpadded


class Attention(nn.Module):
    """Multi-head self-attention; grouped queries (Ainslie et al. 2023, arXiv:2305.13245) where key heads are fewer.

    Args:
        d_model: Width of the tokens.
        num_heads: Query heads; must divide ``d_model``.
        num_kv_heads: Key and value heads; must divide ``num_heads``. None takes ``num_heads``.
        causal: Whether a token sees only itself and the tokens before it.
        bias: Whether the projections have biases.
        dropout: Probability of dropping an attention weight in training.
        qk_norm: Whether queries and keys are normalised by their root mean square, for each head, with a learned gain.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        *,
        num_kv_heads: int | None = None,
        causal: bool = False,
        bias: bool = True,
        dropout: float = 0.0,
        qk_norm: bool = False,
    ) -> None:
        super().__init__()
        num_kv_heads = num_kv_heads or num_heads
        if d_model % num_heads:
            raise ValueError(f"d_model={d_model} must be divisible by num_heads={num_heads}")
        if num_heads % num_kv_heads:
            raise ValueError(f"num_heads={num_heads} must be divisible by num_kv_heads={num_kv_heads}")
        self.head_dim = d_model // num_heads
        self.num_kv_heads = num_kv_heads
        self.causal = causal
        self.dropout = dropout
        self.qkv_sizes = (d_model, num_kv_heads * self.head_dim, num_kv_heads * self.head_dim)
        self.qkv = Linear(d_model, sum(self.qkv_sizes), bias=bias)
        self.out = Linear(d_model, d_model, bias=bias)
        self.q_norm = nn.RMSNorm(self.head_dim, eps=1e-6) if qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(self.head_dim, eps=1e-6) if qk_norm else nn.Identity()

    def forward(
        self,
        x: Tensor,
        layout: Layout | None = None,
        rotation: Rotation | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        """Maps tokens ``(B, T, D)``, or ``(N, D)`` with `Unpadded`, to the same shape.

        Args:
            x: The tokens.
            layout: Which tokens see each other; None is all tokens of a row.
            rotation: Rotary embedding of the tokens' positions.
            cache: Keys and values of the tokens before, to which these are added; then there is no layout.
        """
        q, k, v = self.project(x, rotation)
        dropout = self.dropout if self.training else 0.0
        if cache is not None:
            assert layout is None and self.causal, "a cache serves rows of one document"
            k, v, mask = cache.extend(k, v)
            y = _dense(q, k, v, mask=mask, causal=False, dropout=dropout)
        elif layout is not None:
            y = layout.attend(q, k, v, causal=self.causal, dropout=dropout)
        else:
            y = _dense(q, k, v, mask=None, causal=self.causal, dropout=dropout)
        return self.out(y.flatten(-2))

    def project(self, x: Tensor, rotation: Rotation | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries ``(..., H, K)``, and keys and values ``(..., G, K)``, of tokens ``(..., D)``.

        Under tensor parallelism H and G are this rank's.
        """
        qkv = self.qkv(x)
        sizes = [size * qkv.shape[-1] // self.qkv.out_features for size in self.qkv_sizes]
        q, k, v = (part.unflatten(-1, (-1, self.head_dim)) for part in qkv.split(sizes, dim=-1))
        q, k = self.q_norm(q), self.k_norm(k)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        return q, k, v


def _dense(
    q_BTHK: Tensor, k_BSGK: Tensor, v_BSGK: Tensor, *, mask: Tensor | None, causal: bool, dropout: float
) -> Tensor:
    q_BHTK, k_BGSK, v_BGSK = (x.transpose(1, 2) for x in (q_BTHK, k_BSGK, v_BSGK))
    grouped = k_BGSK.shape[1] != q_BHTK.shape[1]
    y_BHTK = F.scaled_dot_product_attention(
        q_BHTK, k_BGSK, v_BGSK, attn_mask=mask, is_causal=causal, dropout_p=dropout, enable_gqa=grouped
    )
    return y_BHTK.transpose(1, 2)


def _has_varlen(q: Tensor, dropout: float) -> bool:
    """Whether PyTorch's kernel for flat rows can be used: half precision on a GPU, and no dropout."""
    return q.is_cuda and q.dtype in (torch.float16, torch.bfloat16) and dropout == 0.0


def _varlen(q_NHK: Tensor, k_NGK: Tensor, v_NGK: Tensor, edges: Tensor, longest: int, *, causal: bool) -> Tensor:
    window = (-1, 0) if causal else (-1, -1)
    grouped = k_NGK.shape[1] != q_NHK.shape[1]
    y_NHK = varlen_attn(q_NHK, k_NGK, v_NGK, edges, edges, longest, longest, window_size=window, enable_gqa=grouped)
    assert isinstance(y_NHK, Tensor), "nothing else was asked for"
    return y_NHK
