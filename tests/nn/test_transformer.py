from __future__ import annotations

import pytest
import torch

from mmtrain.nn.transformer import Attention, DropPath, Transformer


def transformer(**options: object) -> Transformer:
    torch.manual_seed(0)
    return Transformer(**{"d_model": 32, "num_layers": 2, "num_heads": 4, **options}).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("causal", [True, False])
def test_only_a_causal_transformer_hides_later_tokens(causal: bool) -> None:
    model, x = transformer(causal=causal), torch.randn(2, 6, 32)
    changed = x.clone()
    changed[:, 3:] = torch.randn(2, 3, 32)
    same = torch.equal(model(x)[:, :3], model(changed)[:, :3])
    assert same == causal


def test_attention_is_softmax_of_scaled_products() -> None:
    torch.manual_seed(0)
    attention, x = Attention(8, 2), torch.randn(1, 5, 8)
    q, k, v = (part.view(1, 5, 2, 4).transpose(1, 2) for part in attention.qkv(x).chunk(3, dim=-1))
    mixed = ((q @ k.mT) / 2).softmax(dim=-1) @ v
    torch.testing.assert_close(attention(x), attention.out(mixed.transpose(1, 2).reshape(1, 5, 8)))


def test_initial_deviations_are_clips() -> None:
    model = transformer(d_model=128, num_layers=3, num_heads=2)
    for block in model.blocks:
        expected = {
            block.attention.qkv: 128**-0.5,
            block.attention.out: 128**-0.5 * 6**-0.5,
            block.mlp.up: 256**-0.5,
            block.mlp.down: 128**-0.5 * 6**-0.5,
        }
        for linear, std in expected.items():
            assert linear.weight.std().item() == pytest.approx(std, rel=0.03)
            assert not linear.bias.any()


def test_drop_path_drops_whole_samples_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    drop, ones = DropPath(0.25), torch.ones(4000, 2, 3)
    dropped = drop(ones)
    assert all(len(sample.unique()) == 1 for sample in dropped[:50])
    assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])
    assert dropped.mean().item() == pytest.approx(1, abs=0.03)
    assert torch.equal(drop.eval()(ones), ones)


def test_drop_path_grows_from_nothing_to_its_rate() -> None:
    rates = [block.drop_path.rate for block in transformer(num_layers=5, drop_path=0.4).blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert [block.drop_path.rate for block in transformer(num_layers=1, drop_path=0.4).blocks] == [0]


def test_dropout_acts_in_training_only() -> None:
    model, x = transformer(dropout=0.5), torch.randn(2, 4, 32)
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="d_model=32 must be divisible by num_heads=5"):
        transformer(num_heads=5)
