from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mmtrain.nn.attention import Attention, Documents, Unpadded
from mmtrain.nn.rope import rotate, rotation
from mmtrain.nn.transformer import Transformer

LENGTHS = [5, 1, 7]


def transformer(**options: object) -> Transformer:
    torch.manual_seed(0)
    return Transformer(**{"d_model": 32, "num_layers": 2, "num_heads": 4, **options}).eval()  # type: ignore[arg-type]


def rows(lengths: list[int], width: int = 32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(length, width, generator=generator) for length in lengths]


def documents(lengths: list[int], total: int) -> Tensor:
    number = torch.full((1, total), -1)
    number[0, : sum(lengths)] = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    return number


def test_attention_is_softmax_of_scaled_products() -> None:
    torch.manual_seed(0)
    attention, x = Attention(8, 2), torch.randn(1, 5, 8)
    q, k, v = (part.view(1, 5, 2, 4).transpose(1, 2) for part in attention.qkv(x).chunk(3, dim=-1))
    mixed = ((q @ k.mT) / 2).softmax(dim=-1) @ v
    torch.testing.assert_close(attention(x), attention.out(mixed.transpose(1, 2).reshape(1, 5, 8)))


def test_grouped_queries_share_keys_and_values() -> None:
    torch.manual_seed(0)
    grouped, full = Attention(16, 4, num_kv_heads=2), Attention(16, 4)
    q, k, v = grouped.qkv.weight.detach().split(grouped.qkv_sizes)
    k, v = (part.view(2, 4, 16).repeat_interleave(2, dim=0).flatten(0, 1) for part in (k, v))
    full.load_state_dict({"qkv.weight": torch.cat([q, k, v])}, strict=False)
    full.out.load_state_dict(grouped.out.state_dict())
    full.qkv.bias.data.zero_()
    grouped.qkv.bias.data.zero_()
    x = torch.randn(2, 5, 16)
    torch.testing.assert_close(grouped(x), full(x))


@pytest.mark.parametrize("options", [{}, {"causal": True}, {"causal": True, "rope_theta": 100.0, "num_kv_heads": 2}])
def test_packed_documents_equal_separate_ones(options: dict[str, object]) -> None:
    model, parts = transformer(**options), rows(LENGTHS)
    packed = torch.cat([*parts, torch.randn(3, 32)])[None]  # three tokens of padding
    position = torch.cat([torch.arange(length) for length in [*LENGTHS, 3]])[None]
    together = model(packed, Documents(documents(LENGTHS, 16)), position)[0]
    separate = torch.cat([model(part[None])[0] for part in parts])
    torch.testing.assert_close(together[:13], separate, rtol=0, atol=1e-6)
    assert together.isfinite().all(), "padding sees itself"


def test_without_the_layout_documents_leak() -> None:
    model, parts = transformer(), rows(LENGTHS)
    leaking = model(torch.cat(parts)[None])[0]
    separate = torch.cat([model(part[None])[0] for part in parts])
    assert (leaking - separate).abs().max() > 1e-2


@pytest.mark.parametrize("causal", [False, True])
def test_unpadded_rows_equal_padded_ones(causal: bool) -> None:
    model, parts = transformer(causal=causal, norm_position="post"), rows(LENGTHS)
    padded = torch.stack([torch.cat([part, torch.randn(8 - len(part), 32)]) for part in parts])
    layout = Unpadded(torch.tensor(LENGTHS), 8)
    flat = model(layout.unpad(padded), layout)
    separate = torch.cat([model(part[None])[0] for part in parts])
    torch.testing.assert_close(flat, separate, rtol=0, atol=1e-6)
    wide = layout.pad(flat)
    assert wide.shape == padded.shape
    assert torch.equal(layout.unpad(wide), flat)
    assert not wide[1, 1:].any()


def test_gradients_of_unpadded_rows_are_those_of_padded_ones() -> None:
    parts, lengths = rows(LENGTHS), torch.tensor(LENGTHS)
    padded = torch.stack([torch.cat([part, torch.zeros(8 - len(part), 32)]) for part in parts])
    gradients = []
    for flat in (True, False):
        model = transformer()
        layout = Unpadded(lengths, 8)
        document = torch.where(torch.arange(8) < lengths[:, None], 0, -1)
        y = model(layout.unpad(padded), layout) if flat else layout.unpad(model(padded, Documents(document)))
        y.square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_normalised_queries_and_keys_have_unit_root_mean_square() -> None:
    torch.manual_seed(0)
    attention = Attention(16, 2, qk_norm=True)
    plain, scaled = torch.randn(1, 6, 16), Attention(16, 2, qk_norm=True)
    scaled.load_state_dict(attention.state_dict())
    with torch.no_grad():
        scaled.qkv.weight[:32] *= 100
        scaled.qkv.bias[:32] *= 100
    torch.testing.assert_close(attention(plain), scaled(plain), rtol=1e-4, atol=1e-5)


def test_rotary_products_depend_on_the_distance_alone() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(1, 1, 8).expand(6, 1, 8), torch.randn(1, 1, 8).expand(6, 1, 8)
    by = rotation(torch.arange(6), 8, 10_000.0)
    products = (rotate(q, by).squeeze(1) @ rotate(k, by).squeeze(1).T).diagonal(offset=2)
    torch.testing.assert_close(products, products[:1].expand(4))
    assert (products[0] - (q[0] @ k[0].T)).abs() > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 5}, "d_model=32 must be divisible by num_heads=5"),
        ({"num_heads": 4, "num_kv_heads": 3}, "num_heads=4 must be divisible by num_kv_heads=3"),
    ],
)
def test_heads_must_divide(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        transformer(**options)
