from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mmtrain.nn.cache import KVCache
from mmtrain.nn.transformer import Transformer


def decoder(**options: object) -> Transformer:
    torch.manual_seed(0)
    sizes = {"d_model": 32, "num_layers": 2, "num_heads": 4, "causal": True}
    return Transformer(**{**sizes, **options}).eval()  # type: ignore[arg-type]


def cache_of(model: Transformer, length: int) -> KVCache:
    return KVCache(num_layers=model.num_layers, max_length=length)


def run(model: Transformer, x: Tensor, position: Tensor, cache: KVCache, longest: int) -> Tensor:
    cache.place(position, longest)
    return model(x, None, position, cache)


@pytest.mark.parametrize("options", [{}, {"rope_theta": 100.0, "num_kv_heads": 2}])
def test_token_by_token_equals_all_at_once(options: dict[str, object]) -> None:
    model, x = decoder(**options), torch.randn(2, 7, 32)
    cache = cache_of(model, 7)
    parts = [run(model, x[:, :4], torch.arange(4).expand(2, 4), cache, 4)]
    parts += [run(model, x[:, at : at + 1], torch.full((2, 1), at), cache, at + 1) for at in range(4, 7)]
    torch.testing.assert_close(torch.cat(parts, dim=1), model(x), rtol=0, atol=1e-6)


def test_prompts_of_different_lengths_share_a_cache() -> None:
    model, x = decoder(rope_theta=100.0), torch.randn(2, 6, 32)
    lengths = torch.tensor([4, 2])
    cache = cache_of(model, 8)
    run(model, x[:, :4], torch.arange(4).expand(2, 4), cache, 4)  # the second row's tokens 2 and 3 are padding
    new = torch.randn(2, 1, 32)
    after = run(model, new, lengths[:, None], cache, 5)
    for row, length in enumerate(lengths.tolist()):
        alone = model(torch.cat([x[row, :length], new[row]])[None])[0, -1]
        torch.testing.assert_close(after[row, 0], alone, rtol=0, atol=1e-6)


def test_a_cache_that_is_too_short_is_a_bug() -> None:
    model = decoder()
    with pytest.raises(AssertionError, match="5 tokens do not fit in a cache for 4"):
        run(model, torch.randn(1, 5, 32), torch.arange(5)[None], cache_of(model, 4), 5)
