"""What tokens look at: the attention weights of a forward pass, and their way through all layers.

Shape suffixes: B rows, T tokens of a row, D model width, H query heads, G key and value heads, K head width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mmtrain.nn.attention import Attention, Layout, Unpadded
from mmtrain.nn.cache import LayerCache
from mmtrain.nn.rope import Rotation


@contextmanager
def recorded_attention(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Records the attention weights of every `Attention` in a model, as long as the context is open.

    ``with recorded_attention(clip.image) as maps: clip.image(image)``. The weights are computed a second time, beside
    the kernel that never holds them; a model that is not recorded does nothing more than before.

    Yields:
        Weights ``(B, H, T, T)`` by the name of their module, in the order of the layers: row t is what token t looks
        at, and sums to 1. They are fp32 or better, without gradient and without dropout. With `Unpadded` rows they are
        as wide as with padding, and 0 where a token is padding. A second forward pass takes the place of the first.

    Raises:
        ValueError: The model has no `Attention`, or parts of it are compiled, which would leave out the recording; or,
            in the forward pass, keys and values of earlier tokens come from a cache.
    """
    layers = {name: part for name, part in model.named_modules() if isinstance(part, Attention)}
    if not layers:
        raise ValueError(f"{type(model).__name__} has no {Attention.__module__}.Attention to record")
    # A compiled module calls the code that was traced before there were hooks.
    compiled = [name for name, part in model.named_modules() if part._compiled_call_impl is not None]
    if compiled:
        raise ValueError(f"{compiled[0] or 'the model'} is compiled: record a model that is built without .compile()")
    maps: dict[str, Tensor] = {}
    handles = []
    for name, layer in layers.items():

        def record(
            module: Attention, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor, name: str = name
        ) -> None:
            maps[name] = attention_weights(module, *args, **kwargs)

        handles.append(layer.register_forward_hook(record, with_kwargs=True))
    try:
        yield maps
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def attention_weights(
    attention: Attention,
    x: Tensor,
    layout: Layout | None = None,
    rotation: Rotation | None = None,
    cache: LayerCache | None = None,
) -> Tensor:
    """The softmax of the scaled products of queries and keys, ``(B, H, T, T)``; arguments as of `Attention.forward`.

    Raises:
        ValueError: Keys and values of earlier tokens come from a cache.
    """
    if cache is not None:
        raise ValueError("attention weights of cached keys are not recorded: run whole rows, without a cache")
    q, k, _ = attention.project(x, rotation)
    if isinstance(layout, Unpadded):
        q, k = layout.pad(q), layout.pad(k)
    real = torch.promote_types(q.dtype, torch.float32)
    q_BHTK, k_BGTK = (part.transpose(1, 2).to(real) for part in (q, k))
    k_BHTK = k_BGTK.repeat_interleave(q_BHTK.shape[1] // k_BGTK.shape[1], dim=1)
    with torch.autocast(x.device.type, enabled=False):
        logits_BHTT = q_BHTK @ k_BHTK.mT / math.sqrt(attention.head_dim)
    seen_BTT = _seen(layout, logits_BHTT.shape[-1], causal=attention.causal, device=x.device)
    weights_BHTT = logits_BHTT.masked_fill(~seen_BTT[:, None], -math.inf).softmax(dim=-1)
    # A token of padding has no row: it sees nothing.
    return weights_BHTT.masked_fill(~seen_BTT.any(-1)[:, None, :, None], 0.0)


def rollout(maps: Mapping[str, Tensor] | Sequence[Tensor], residual: float = 0.5) -> Tensor:
    """Attention rollout: how much of each input token is in each output (Abnar and Zuidema 2020, arXiv:2005.00928).

    Heads are averaged, the residual branch is the identity beside them, and layers are multiplied (equation 1).

    Args:
        maps: Weights ``(B, H, T, T)`` of each layer, from the first one on; those of one stack.
        residual: Share of a token that goes past a layer's attention, in [0, 1); the paper's is one half.

    Returns:
        ``(B, T, T)``, of which each row sums to 1: input tokens for an output token.

    Raises:
        ValueError: There are no weights, they are of stacks of different shapes, or ``residual`` is out of range.
    """
    layers = list(maps.values()) if isinstance(maps, Mapping) else list(maps)
    if not layers:
        raise ValueError("there are no attention weights: run the model in recorded_attention() first")
    if not 0 <= residual < 1:
        raise ValueError(f"residual={residual} must lie in [0, 1)")
    rows, _, tokens, _ = layers[0].shape
    if any(layer.shape[0] != rows or layer.shape[-1] != tokens for layer in layers):
        shapes = ", ".join(str(tuple(layer.shape)) for layer in layers)
        raise ValueError(f"weights of one stack have one shape, not {shapes}: record one tower at a time")
    identity_TT = torch.eye(tokens, dtype=layers[0].dtype, device=layers[0].device)
    rolled_BTT = identity_TT.expand(rows, -1, -1)
    for weights_BHTT in layers:
        mixed_BTT = (1 - residual) * weights_BHTT.mean(1) + residual * identity_TT
        # Padding attends to nothing, and stays what it is.
        rolled_BTT = (mixed_BTT / mixed_BTT.sum(-1, keepdim=True)) @ rolled_BTT
    return rolled_BTT


def _seen(layout: Layout | None, tokens: int, *, causal: bool, device: torch.device) -> Tensor:
    """Whether a token sees another, ``(B, T, T)`` or ``(1, T, T)``."""
    if layout is None:
        seen_BTT = torch.ones(1, tokens, tokens, dtype=torch.bool, device=device)
    elif isinstance(layout, Unpadded):
        real_BT = torch.arange(tokens, device=device) < layout.length_B[:, None]
        seen_BTT = real_BT[:, :, None] & real_BT[:, None, :]
    else:
        seen_BTT = layout.document_BT[:, :, None] == layout.document_BT[:, None, :]
    return seen_BTT.tril() if causal else seen_BTT
