from __future__ import annotations

import torch
from optim_toys import adamw, set_gradients, small_clip


def names_by_decay(optimizer: torch.optim.Optimizer, model: torch.nn.Module) -> dict[float, set[str]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {group["weight_decay"]: {names[id(p)] for p in group["params"]} for group in optimizer.param_groups}


def test_matrices_decay_and_gains_biases_and_temperature_do_not() -> None:
    model = small_clip()
    groups = names_by_decay(adamw().build(model), model)
    assert groups.keys() == {0.2, 0.0}
    block = {"attention.qkv.weight", "attention.out.weight", "mlp.up.weight", "mlp.down.weight"}
    assert groups[0.2] == {
        *(f"{tower}.transformer.blocks.0.{name}" for tower in ("image", "text") for name in block),
        *(f"{tower}_projection.weight" for tower in ("image", "text")),
        *("image.positions", "text.positions", "text.token_embed.weight"),
        *("image.patch_embed.0.weight", "image.patch_embed.3.weight"),
    }
    assert groups[0.0] == {name for name, _ in model.named_parameters()} - groups[0.2]
    assert {"logit_scale", "image.class_token", "image.patch_embed.1.weight"} < groups[0.0]


def test_steps_are_those_of_torch() -> None:
    ours, theirs = small_clip(), small_clip()
    optimizer = adamw().build(ours)
    groups = [
        {"params": [p for p in theirs.parameters() if p.ndim >= 2], "weight_decay": 0.2},
        {"params": [p for p in theirs.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    reference = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.98), eps=1e-6, foreach=False, fused=False)
    for step in range(4):
        set_gradients(ours, step)
        set_gradients(theirs, step)
        optimizer.step()
        reference.step()
        for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(p, q, atol=1e-6, rtol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_frozen_parameters_are_left_out() -> None:
    model = small_clip()
    model.image.requires_grad_(False)
    groups = names_by_decay(adamw().build(model), model)
    assert not any(name.startswith("image.") for names in groups.values() for name in names)
