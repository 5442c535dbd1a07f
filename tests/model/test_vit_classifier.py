from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mmtrain.config import compose, validate
from mmtrain.config.instantiate import instantiate
from mmtrain.model.vit import ViT
from mmtrain.model.vit_classifier import ViTClassifier


def classifier(num_classes: int = 10, **options: Any) -> ViTClassifier:
    torch.manual_seed(0)
    tower = {"image_size": 32, "patch_size": 8, "d_model": 128, "num_layers": 2, "num_heads": 4, "init": "bert"}
    return ViTClassifier(backbone=ViT(**{**tower, **options}), num_classes=num_classes)


def images(n: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("num_classes", [2, 10, 1000])
@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_the_loss_before_training_is_that_of_a_guess(num_classes: int, pool: str) -> None:
    model = classifier(num_classes, pool=pool)
    logits = model(images(64))
    assert logits.shape == (64, num_classes)
    loss = F.cross_entropy(logits, torch.arange(64) % num_classes)
    assert loss.item() == pytest.approx(math.log(num_classes), rel=0.05)


def test_bytes_are_normalised_by_the_model() -> None:
    model = classifier().eval()
    seen = []
    model.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 32, 32))
    assert seen[0][0].unique().tolist() == [-1.0]
    assert seen[0][1].unique().tolist() == [1.0]
    assert not any(name.startswith("image_") for name in model.state_dict()), "weights hold no constants"


@pytest.mark.parametrize(("name", "parameters"), [("vit_ti", 5_717_416), ("vit_s", 22_050_664), ("vit_b", 86_567_656)])
def test_the_published_sizes_have_their_number_of_parameters(name: str, parameters: int) -> None:
    """As ``timm``'s ``deit_*_patch16_224`` and ``vit_base_patch16_224``."""
    composed = compose(["experiment=vit_s_imagenet", f"model={name}", "model.backbone.pool=cls"])
    validate(composed)
    with torch.device("meta"):
        model = instantiate(composed.config["model"], "model")
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@pytest.mark.parametrize("patch_dropout", [0.0, 0.5])
def test_flops_are_those_that_torch_counts(patch_dropout: float) -> None:
    """All but one thing: the gradient of the pixels, a third of the patch embedding, is counted and never made."""
    model = classifier(patch_dropout=patch_dropout)
    # Torch counts the products of attention's plain form only.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(images(1)).sum().backward()
    assert model.flops_per_sample() == counter.get_total_flops() + 2 * 3 * 8 * 8 * 128 * 16
