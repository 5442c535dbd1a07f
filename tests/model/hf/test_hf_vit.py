"""Against Hugging Face's ViTForImageClassification and ViTModel with random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hf_toys import LAYERS, assert_close, assert_equal_weights, disturb, saved
from torch import Tensor
from transformers import ViTConfig, ViTForImageClassification, ViTModel

from mmtrain.errors import RunError
from mmtrain.model.hf.folder import Folder, write_folder
from mmtrain.model.hf.vit import from_hf, settings_from_hf, to_hf
from mmtrain.model.vit import ViT
from mmtrain.model.vit_classifier import ViTClassifier

SIZES = {"image_size": 16, "patch_size": 8}


@pytest.fixture(scope="module")
def theirs() -> ViTForImageClassification:
    torch.manual_seed(1)
    config = ViTConfig(**LAYERS, **SIZES)
    config.num_labels = 5
    model = ViTForImageClassification(config).eval()
    disturb(model)
    return model


@pytest.fixture(scope="module")
def folder(theirs: ViTForImageClassification, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return saved(theirs, tmp_path_factory.mktemp("vit"))


def images() -> Tensor:
    return torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))


def normalised(model: ViTClassifier) -> Tensor:
    return (images() / 255 - model.image_mean) / model.image_std


def test_logits_loss_and_gradients_are_theirs(folder: Folder, theirs: ViTForImageClassification) -> None:
    ours = from_hf(folder).eval()
    assert isinstance(ours, ViTClassifier)
    labels = torch.arange(6) % 5
    expected = theirs(pixel_values=normalised(ours), labels=labels)
    logits = ours(images())
    assert_close(logits, expected.logits)
    loss = F.cross_entropy(logits, labels)
    assert_close(loss, expected.loss)
    theirs.zero_grad()
    loss.backward()
    expected.loss.backward()
    own = ours.backbone.patch_embed.weight.grad, ours.backbone.transformer.blocks[0].attention.out.weight.grad
    embeddings, layer = theirs.vit.embeddings, theirs.vit.layers[0]
    other = embeddings.patch_embeddings.projection.weight.grad, layer.attention.o_proj.weight.grad
    for gradient, theirs_gradient in zip(own, other, strict=True):
        assert_close(gradient, theirs_gradient)


def test_round_trips_are_exact(folder: Folder) -> None:
    ours = from_hf(folder)
    assert isinstance(ours, ViTClassifier)
    config, weights = to_hf(ours)
    assert_equal_weights(weights, folder.weights)
    assert settings_from_hf(config) == settings_from_hf(folder.config)


def test_the_written_folder_is_the_model_in_transformers(tmp_path: Path) -> None:
    backbone = ViT(**SIZES, d_model=32, num_layers=2, num_heads=4, norm_pre=False, patch_bias=False)
    model = ViTClassifier(backbone=backbone, num_classes=3).eval()
    disturb(model)
    write_folder(tmp_path, *to_hf(model, ("cat", "dog", "cow")))
    theirs = ViTForImageClassification.from_pretrained(tmp_path).eval()
    assert theirs.config.id2label == {0: "cat", 1: "dog", 2: "cow"}
    assert_close(model(images()), theirs(pixel_values=normalised(model)).logits)


def test_features_of_a_bare_model_are_theirs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    theirs = ViTModel(ViTConfig(**LAYERS, **SIZES)).eval()
    disturb(theirs)
    with caplog.at_level("INFO"):
        ours = from_hf(saved(theirs, tmp_path)).eval()
    assert isinstance(ours, ViT)
    pixels = torch.randn(6, 3, 16, 16)
    assert_close(ours(pixels), theirs(pixels).last_hidden_state[:, 0])
    assert "pooler is left out" in caplog.text


def test_clips_first_norm_has_no_place(tmp_path: Path) -> None:
    model = ViTClassifier(backbone=ViT(**SIZES, d_model=32, num_layers=1, num_heads=4), num_classes=2)
    with pytest.raises(RunError, match=r"without a counterpart  backbone\.norm_pre\.weight"):
        to_hf(model)
