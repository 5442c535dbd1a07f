from __future__ import annotations

import pytest
import torch

from mmtrain.nn.transformer import DropPath, Transformer


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


def test_post_norm_follows_the_sum() -> None:
    model, x = transformer(num_layers=1, norm_position="post"), torch.randn(2, 4, 32)
    (block,) = model.blocks
    middle = block.norm1(x + block.attention(x))
    assert torch.equal(model(x), block.norm2(middle + block.mlp(middle)))


def test_swiglu_gates_the_hidden_layer() -> None:
    model, x = transformer(num_layers=1, activation="swiglu", bias=False, mlp_hidden=24), torch.randn(2, 4, 32)
    mlp = model.blocks[0].mlp
    expected = (torch.nn.functional.silu(x @ mlp.gate.weight.T) * (x @ mlp.up.weight.T)) @ mlp.down.weight.T
    torch.testing.assert_close(mlp(x), expected)
    assert mlp.up.weight.shape == (24, 32)
    assert not any("bias" in name for name, _ in model.named_parameters())


@pytest.mark.parametrize(("init", "residual"), [("bert", 0.02), ("gpt2", 0.02 * 6**-0.5)])
def test_initial_deviations_of_bert_and_gpt2(init: str, residual: float) -> None:
    for block in transformer(d_model=128, num_layers=3, num_heads=2, init=init).blocks:
        for linear in (block.attention.qkv, block.mlp.up):
            assert linear.weight.std().item() == pytest.approx(0.02, rel=0.03)
        for linear in (block.attention.out, block.mlp.down):
            assert linear.weight.std().item() == pytest.approx(residual, rel=0.03)


def test_recomputed_activations_give_the_same_gradient_with_dropout() -> None:
    gradients = []
    for checkpoint in (False, True):
        model = transformer(dropout=0.3, checkpoint=checkpoint).train()
        torch.manual_seed(5)
        model(torch.ones(2, 4, 32)).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=0)


def test_recomputing_keeps_fewer_activations() -> None:
    kept = []
    for checkpoint in (False, True):
        model, total = transformer(num_layers=4, checkpoint=checkpoint).train(), 0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal total
            total += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(torch.ones(2, 16, 32))
        kept.append(total)
    assert kept[1] < kept[0] / 4
