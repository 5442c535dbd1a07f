"""Against Hugging Face's CLIPModel with random weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from clip_toys import END, VOCAB, toy_clip, toy_images, toy_texts
from hf_toys import LAYERS, assert_close, assert_equal_weights, disturb, saved
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from mmtrain.errors import RunError
from mmtrain.model.clip import CLIP
from mmtrain.model.hf.clip import from_hf, settings_from_hf, to_hf
from mmtrain.model.hf.folder import Folder, write_folder

TEXT = {"vocab_size": VOCAB, "max_position_embeddings": 12, "bos_token_id": 98, "eos_token_id": END, "pad_token_id": 0}
VISION = {"image_size": 16, "patch_size": 8}


@pytest.fixture(scope="module")
def theirs() -> CLIPModel:
    torch.manual_seed(1)
    config = CLIPConfig(text_config={**LAYERS, **TEXT}, vision_config={**LAYERS, **VISION}, projection_dim=16)
    model = CLIPModel(config).eval()
    disturb(model)
    return model


@pytest.fixture(scope="module")
def folder(theirs: CLIPModel, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return saved(theirs, tmp_path_factory.mktemp("clip"))


@pytest.fixture
def ours(folder: Folder) -> CLIP:
    return from_hf(folder).eval()


def pixels() -> Tensor:
    return torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(3))


def test_image_features_are_theirs(ours: CLIP, theirs: CLIPModel) -> None:
    assert_close(ours.image(pixels()), theirs.vision_model(pixels()).pooler_output)


def test_text_features_are_theirs(ours: CLIP, theirs: CLIPModel) -> None:
    texts = toy_texts(6)
    assert_close(ours.text(texts), theirs.text_model(texts).pooler_output)


def test_logits_loss_and_gradients_are_theirs(ours: CLIP, theirs: CLIPModel) -> None:
    images, texts = toy_images(6), toy_texts(6)
    normalised = (images / 255 - ours.image_mean) / ours.image_std
    theirs.zero_grad()
    expected = theirs(input_ids=texts, pixel_values=normalised, return_loss=True)
    image_BD, text_BD = ours(images, texts)
    logits = ours.scale() * image_BD @ text_BD.T
    assert_close(logits, expected.logits_per_image)
    loss = (F.cross_entropy(logits, torch.arange(6)) + F.cross_entropy(logits.T, torch.arange(6))) / 2
    assert_close(loss, expected.loss)
    loss.backward()
    expected.loss.backward()
    own = {name: parameter.grad for name, parameter in ours.named_parameters() if parameter.grad is not None}
    assert len(own) == len(list(ours.parameters()))
    holder = from_hf(Folder("gradients", *to_hf(ours)))
    holder.load_state_dict(own)
    gradients = to_hf(holder)[1]
    for name, parameter in theirs.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(
            gradients[name], parameter.grad, atol=1e-5, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_round_trips_are_exact(folder: Folder) -> None:
    model = from_hf(folder)
    config, weights = to_hf(model)
    assert_equal_weights(weights, folder.weights)
    assert settings_from_hf(config) == settings_from_hf(folder.config)
    own = toy_clip(seed=5)
    assert_equal_weights(from_hf(Folder("here", *to_hf(own))).state_dict(), own.state_dict())


def test_the_written_folder_is_the_model_in_transformers(tmp_path: Path) -> None:
    model = toy_clip(activation="gelu", norm_eps=1e-6).eval()
    disturb(model)
    write_folder(tmp_path, *to_hf(model))
    theirs = CLIPModel.from_pretrained(tmp_path).eval()
    texts = toy_texts(6)
    expected = theirs(input_ids=texts, pixel_values=(toy_images(6) / 255 - model.image_mean) / model.image_std)
    image_BD, text_BD = model(toy_images(6), texts)
    assert_close(model.scale() * image_BD @ text_BD.T, expected.logits_per_image)


def test_positions_of_older_files_are_passed_over(folder: Folder) -> None:
    old = {**folder.weights, "text_model.embeddings.position_ids": torch.arange(12)[None]}
    assert_equal_weights(from_hf(Folder("old", folder.config, old)).state_dict(), from_hf(folder).state_dict())


def unlike_clip() -> Iterator[tuple[CLIP, str]]:
    yield toy_clip(image={"stem": [8]}), r"without a counterpart  image\.patch_embed\.0\.weight"
    yield toy_clip(image={"pool": "mean"}), r"lacking +image\.class_token"


@pytest.mark.parametrize(("model", "reason"), unlike_clip(), ids=["stem", "mean"])
def test_a_model_that_is_not_clips_is_refused(model: CLIP, reason: str) -> None:
    with pytest.raises(RunError, match=reason):
        to_hf(model)
