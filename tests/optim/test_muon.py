from __future__ import annotations

from pathlib import Path

import pytest
import torch
from optim_toys import adamw, set_gradients, small_clip
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from mmtrain.nn.transformer import Transformer
from mmtrain.optim.muon import Muon, OrthogonalMomentum, fused_rows, hidden_matrices, orthogonal


def muon() -> Muon:
    return Muon(lr=2e-2, rest=adamw(), momentum=0.95, weight_decay=0.1)


def matrices() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in [(48, 16), (16, 16), (16, 64), (16, 16)]]


@pytest.mark.parametrize("shape", [(2, 16, 16), (1, 48, 16), (3, 16, 64)])
def test_orthogonal_brings_singular_values_near_one_and_keeps_directions(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    y = orthogonal(x)
    u, _, vh = torch.linalg.svd(x, full_matrices=False)
    in_the_same_basis = u.mT @ y @ vh.mT
    values = in_the_same_basis.diagonal(dim1=1, dim2=2)
    # Singular values near 0 need more iterations: of those of a square random matrix, one or two are.
    assert values.median() > 0.6
    assert values.max() < 1.3
    torch.testing.assert_close(in_the_same_basis, torch.diag_embed(values), atol=1e-4, rtol=0)


def test_steps_are_those_of_torch_within_bf16() -> None:
    """torch.optim.Muon iterates in bf16, of 8 bits: orthogonal matrices differ by about 1%, and updates with them."""
    ours, theirs = matrices(), matrices()
    options = {"lr": 2e-2, "momentum": 0.95, "weight_decay": 0.1}
    optimizer = OrthogonalMomentum(ours, **options)
    reference = torch.optim.Muon(theirs, **options, nesterov=True, adjust_lr_fn="match_rms_adamw")
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        before = [parameter.detach().clone() for parameter in theirs]
        for p, q, start in zip(ours, theirs, before, strict=True):
            p.data.copy_(start)
            q.grad = torch.randn(q.shape, generator=generator)
            p.grad = q.grad.clone()
        optimizer.step()
        reference.step()
        for p, q, start in zip(ours, theirs, before, strict=True):
            assert (p - q).norm() < 0.02 * (q - start).norm()


def test_the_first_update_has_the_size_of_adamws() -> None:
    """0.2 is the root mean square of AdamW's updates, that is of ``step / lr`` (arXiv:2502.16982, section 2.2)."""
    for matrix in matrices():
        start = matrix.detach().clone()
        matrix.grad = torch.randn_like(matrix)
        OrthogonalMomentum([matrix], lr=1e-2).step()
        assert ((matrix - start) / 1e-2).square().mean().sqrt().item() == pytest.approx(0.2, rel=0.25)


def test_muon_takes_the_matrices_of_blocks_and_nothing_else() -> None:
    model = small_clip()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    inside = ["attention.qkv", "attention.out", "mlp.up", "mlp.down"]
    expected = [f"{tower}.transformer.blocks.0.{layer}.weight" for tower in ("image", "text") for layer in inside]
    assert [names[id(parameter)] for parameter in hidden_matrices(model)] == expected
    groups = muon().build(model).param_groups
    assert [names[id(parameter)] for parameter in groups[0]["params"]] == expected
    every = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(every) == sorted(names), "each parameter is in one group"


def test_split_projections_are_updated_as_matrices_of_their_own() -> None:
    """With grouped queries, too, where keys and values have fewer rows than queries."""
    transformer = Transformer(d_model=16, num_layers=2, num_heads=4, num_kv_heads=2)
    weights = [block.attention.qkv.weight for block in transformer.blocks]
    assert fused_rows(transformer) == dict.fromkeys(weights, (16, 8, 8))
    separate = [nn.Parameter(part.detach().clone()) for weight in weights for part in weight.split((16, 8, 8))]
    options = {"lr": 2e-2, "momentum": 0.95, "weight_decay": 0.1}
    optimizer = OrthogonalMomentum(weights, **options, rows=fused_rows(transformer))
    reference = OrthogonalMomentum(separate, **options)
    fused = [nn.Parameter(weight.detach().clone()) for weight in weights]
    unsplit = OrthogonalMomentum(fused, **options)
    for _ in range(3):
        for index, weight in enumerate(weights):
            weight.grad = torch.randn_like(weight)
            fused[index].grad = weight.grad.clone()
            for part, gradient in zip(separate[3 * index : 3 * index + 3], weight.grad.split((16, 8, 8)), strict=True):
                part.grad = gradient.clone()
        for each in (optimizer, reference, unsplit):
            each.step()
    for index, weight in enumerate(weights):
        torch.testing.assert_close(weight, torch.cat(separate[3 * index : 3 * index + 3]), atol=1e-6, rtol=1e-6)
        assert (weight - fused[index]).norm() > 1e-2


def test_the_recipe_splits_where_it_is_told_to() -> None:
    split, whole = small_clip(), small_clip()
    for model, flag in ((split, True), (whole, False)):
        set_gradients(model, 0)
        Muon(lr=2e-2, rest=adamw(), split_qkv=flag).build(model).step()
    differ = {name for (name, p), q in zip(split.named_parameters(), whole.parameters(), strict=True) if not p.equal(q)}
    assert differ == {f"{tower}.transformer.blocks.0.attention.qkv.weight" for tower in ("image", "text")}


def test_both_optimizers_step() -> None:
    model, reference = small_clip(), small_clip()
    set_gradients(model, 0)
    muon().build(model).step()
    for (name, p), q in zip(model.named_parameters(), reference.parameters(), strict=True):
        assert not torch.equal(p, q), name


def test_parameters_without_gradient_stay() -> None:
    model, reference = small_clip(), small_clip()
    set_gradients(model, 0)
    for parameter in model.image.parameters():
        parameter.grad = None
    muon().build(model).step()
    assert all(torch.equal(p, q) for p, q in zip(model.image.parameters(), reference.image.parameters(), strict=True))


def test_closure_is_called_once_with_gradients_enabled() -> None:
    model = small_clip()
    set_gradients(model, 0)
    calls: list[bool] = []

    def closure() -> float:
        calls.append(torch.is_grad_enabled())
        return 3.0

    assert muon().build(model).step(closure) == 3.0
    assert calls == [True]


def test_schedule_moves_both_optimizers() -> None:
    optimizer = muon().build(small_clip())
    peaks = [group["lr"] for group in optimizer.param_groups]
    assert peaks == [2e-2, 1e-2, 1e-2]
    scheduler = LambdaLR(optimizer, lambda step: 1 / (1 + step))
    optimizer.step()
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([peak / 2 for peak in peaks])


def test_learning_rate_zero_holds_all_parameters() -> None:
    """So the rates that a schedule writes into the groups are those that both optimizers read."""
    model, reference = small_clip(), small_clip()
    optimizer = muon().build(model)
    for restored in (False, True):
        if restored:
            optimizer.load_state_dict(optimizer.state_dict())
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        set_gradients(model, 0)
        optimizer.step()
        assert all(torch.equal(p, q) for p, q in zip(model.parameters(), reference.parameters(), strict=True))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, scheduler: LambdaLR, steps: range) -> None:
    for step in steps:
        set_gradients(model, step)
        optimizer.step()
        scheduler.step()


def test_training_continues_bit_exactly_from_a_weights_only_checkpoint(tmp_path: Path) -> None:
    def fresh() -> tuple[nn.Module, torch.optim.Optimizer, LambdaLR]:
        model = small_clip()
        optimizer = muon().build(model)
        return model, optimizer, LambdaLR(optimizer, lambda step: 1 / (1 + step))

    whole, optimizer, scheduler = fresh()
    train(whole, optimizer, scheduler, range(3))
    parts = {"model": whole, "optimizer": optimizer, "scheduler": scheduler}
    torch.save({name: part.state_dict() for name, part in parts.items()}, tmp_path / "checkpoint.pt")
    train(whole, optimizer, scheduler, range(3, 6))

    model, optimizer, scheduler = fresh()
    checkpoint = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    scheduler.load_state_dict(checkpoint["scheduler"])
    train(model, optimizer, scheduler, range(3, 6))
    for (name, p), q in zip(whole.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(p, q), name
