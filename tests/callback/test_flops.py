"""FLOPs by formula are those that PyTorch counts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mmtrain.callback.throughput import real_tokens
from mmtrain.model.text import TextTransformer
from mmtrain.model.vit import ViT
from mmtrain.nn.transformer import Transformer

BATCH = 2


def counted(module: nn.Module, *inputs: Tensor) -> int:
    # The unfused kernel keeps the attention weights, so that its backward pass computes nothing again.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        module(*inputs).sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("options", [{}, {"num_kv_heads": 2, "activation": "swiglu", "norm": "rms", "bias": False}])
def test_flops_of_the_transformer_are_those_counted(options: dict[str, object]) -> None:
    model = Transformer(d_model=64, num_layers=3, num_heads=4, **options)  # type: ignore[arg-type]
    x_BTD = torch.randn(BATCH, 48, 64, requires_grad=True)
    assert counted(model, x_BTD) == BATCH * 48 * model.flops_per_token(48)


@pytest.mark.parametrize("stem", [(), (8, 16)])
def test_flops_of_the_image_tower_are_those_counted(stem: tuple[int, ...]) -> None:
    model = ViT(image_size=64, patch_size=16, d_model=64, num_layers=2, num_heads=4, stem=stem)
    # Of the pixels, which want no gradient, the formula counts one: the first layer's backward pass is half as long.
    first = next(conv for conv in model.patch_embed.modules() if isinstance(conv, nn.Conv2d))
    side = 64 // first.stride[0]
    image_BCHW = torch.randn(BATCH, 3, 64, 64)
    without_pixels = model.flops_per_sample() - 2 * first.weight.numel() * side * side
    assert counted(model, image_BCHW) == BATCH * without_pixels


def test_flops_of_the_text_tower_are_those_counted() -> None:
    model = TextTransformer(context_length=16, vocab_size=50, d_model=64, num_layers=2, num_heads=4)
    tokens_BT = torch.randint(1, 49, (BATCH, 16))
    for length in (16, 5):
        end_BT = torch.arange(16) == length - 1
        cost = counted(model, tokens_BT.masked_fill(end_BT, 49))
        assert cost == BATCH * model.flops_per_sample(length), "what follows the end costs nothing"
    assert model.flops_per_sample() == model.flops_per_sample(16)


def test_tokens_are_counted_without_padding_and_filler() -> None:
    weight = torch.tensor([1.0, 1.0, 0.0])
    document = torch.tensor([[0, 0, 1, 1, 1], [0, 0, -1, -1, -1], [0, 0, 0, 0, 0]])
    assert real_tokens({"document": document, "weight": weight}) == 4 + 2
    assert real_tokens({"length": torch.tensor([7, 2, 5]), "weight": weight}) == 9
    assert real_tokens({"image": torch.zeros(3), "weight": weight}) is None
    assert real_tokens({"x": torch.zeros(3)}) is None
