from __future__ import annotations

from collections import Counter

import pytest
import torch
from optim_toys import small_clip
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from mmtrain.errors import ConfigError
from mmtrain.model.bert import Bert
from mmtrain.model.gpt import GPT
from mmtrain.optim.adamw import AdamW
from mmtrain.optim.groups import lr_by_depth
from mmtrain.optim.muon import Muon
from mmtrain.optim.schedule import Constant

SIZE = {"d_model": 16, "num_layers": 2, "num_heads": 2, "context_length": 8, "vocab_size": 20}


def shares(model: nn.Module, decay: float = 0.5) -> dict[str, float]:
    found = lr_by_depth(model, decay)
    return {name: found.get(parameter, 1.0) for name, parameter in model.named_parameters()}


def block(name: str, share: float, every: dict[str, float]) -> dict[str, float]:
    return {key: share for key in every if key.startswith(name)}


def test_bert_falls_by_layer_from_the_head_to_the_embeddings() -> None:
    """BEiT's ``get_num_layer_for_vit``: 0 for embeddings, n + 1 for block n, the last for the rest; ELECTRA alike."""
    model = nn.ModuleDict({"encoder": Bert(**SIZE), "head": nn.Linear(16, 2)})  # type: ignore[arg-type]
    found = shares(model)
    expected = dict.fromkeys(found, 1.0)
    expected |= block("encoder.transformer.blocks.1.", 0.5, found) | block("encoder.transformer.blocks.0.", 0.25, found)
    embeddings = ("token_embed.weight", "positions", "segment_embed.weight", "norm_embed.weight", "norm_embed.bias")
    expected |= {f"encoder.{name}": 0.125 for name in embeddings}
    assert found == expected
    assert Counter(found.values()).keys() == {1.0, 0.5, 0.25, 0.125}


def test_each_tower_of_clip_has_its_own_depth() -> None:
    found = shares(small_clip())
    for name in ("image.class_token", "image.positions", "image.patch_embed.0.weight", "image.norm_pre.bias"):
        assert found[name] == 0.25
    assert found["text.token_embed.weight"] == found["text.positions"] == 0.25
    assert set(block("text.transformer", 0.5, found)) | set(block("image.transformer", 0.5, found)) == {
        name for name, share in found.items() if share == 0.5
    }
    for name in ("image.norm_post.weight", "text.norm_final.bias", "image_projection.weight", "logit_scale"):
        assert found[name] == 1.0


def test_a_tied_head_is_an_embedding_and_a_head_of_its_own_is_not() -> None:
    assert shares(GPT(**SIZE))["token_embed.weight"] == 0.125  # type: ignore[arg-type]
    assert shares(GPT(**SIZE, tied=False))["head.weight"] == 1.0  # type: ignore[arg-type]


def test_groups_have_the_rate_of_their_depth_and_no_decay_of_vectors() -> None:
    model = Bert(**SIZE)  # type: ignore[arg-type]
    optimizer = AdamW(lr=0.8, schedule=Constant(), weight_decay=0.1, layer_decay=0.5).build(model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = shares(model)
    seen = []
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            seen.append(names[id(parameter)])
            assert group["lr"] == 0.8 * found[seen[-1]]
            assert group["weight_decay"] == (0.1 if parameter.ndim >= 2 else 0.0)
    assert sorted(seen) == sorted(names.values()), "each parameter is in one group"

    scheduler = LambdaLR(optimizer, lambda step: 1 / (1 + step))
    rates = [group["lr"] for group in optimizer.param_groups]
    optimizer.step()
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([rate / 2 for rate in rates])


def test_the_update_of_a_layer_has_its_share() -> None:
    """AdamW's first step is the learning rate's size, whatever the gradient's."""
    model = Bert(**SIZE)  # type: ignore[arg-type]
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = AdamW(lr=1e-3, schedule=Constant(), layer_decay=0.5).build(model)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    found = shares(model)
    for name, parameter in model.named_parameters():
        moved = (before[name] - parameter).mean().item()
        assert moved == pytest.approx(1e-3 * found[name], rel=1e-2), name


def test_what_has_no_meaning_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"layer_decay=1\.5 is no share"):
        lr_by_depth(small_clip(), 1.5)
    with pytest.raises(ConfigError, match="the model has no stack of blocks"):
        lr_by_depth(nn.Linear(2, 2), 0.5)
    with pytest.raises(ConfigError, match="under Muon"):
        Muon(lr=1e-2, rest=AdamW(lr=1e-3, schedule=Constant(), layer_decay=0.9))
