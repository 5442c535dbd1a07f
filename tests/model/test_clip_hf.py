"""Against Hugging Face's CLIPModel with random weights."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from clip_toys import END, VOCAB, toy_clip, toy_images, toy_texts
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from mmtrain.errors import RunError
from mmtrain.model.clip import CLIP
from mmtrain.model.clip_hf import from_hf, to_hf
from mmtrain.nn.contrastive import clip_loss

LAYERS = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT = {"vocab_size": VOCAB, "max_position_embeddings": 12, "bos_token_id": 98, "eos_token_id": END, "pad_token_id": 0}
VISION = {"image_size": 16, "patch_size": 8}


@pytest.fixture
def theirs() -> CLIPModel:
    torch.manual_seed(1)
    config = CLIPConfig(text_config={**LAYERS, **TEXT}, vision_config={**LAYERS, **VISION}, projection_dim=16)
    model = CLIPModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases start at 0 and gains at 1, which would hide a mix-up
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


@pytest.fixture
def ours(theirs: CLIPModel) -> CLIP:
    model = toy_clip(activation="quick_gelu").eval()
    model.load_state_dict(from_hf(theirs.state_dict()))
    return model


def pixels() -> Tensor:
    return torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(3))


def close(x: Tensor, y: Tensor) -> None:
    torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-5)


def test_image_features_are_theirs(ours: CLIP, theirs: CLIPModel) -> None:
    close(ours.image(pixels()), theirs.vision_model(pixels()).pooler_output)


def test_text_features_are_theirs(ours: CLIP, theirs: CLIPModel) -> None:
    texts = toy_texts(6)
    close(ours.text(texts), theirs.text_model(texts).pooler_output)


def test_logits_loss_and_gradients_are_theirs(ours: CLIP, theirs: CLIPModel) -> None:
    images, texts = toy_images(6), toy_texts(6)
    normalised = (images / 255 - ours.image_mean) / ours.image_std
    expected = theirs(input_ids=texts, pixel_values=normalised, return_loss=True)
    image_BD, text_BD = ours(images, texts)
    close(ours.scale() * image_BD @ text_BD.T, expected.logits_per_image)
    loss = clip_loss(image_BD, text_BD, ours.scale(), torch.ones(6))
    close(loss, expected.loss)
    loss.backward()
    expected.loss.backward()
    gradients = from_hf({name: parameter.grad for name, parameter in theirs.named_parameters()})
    own = {name: parameter.grad for name, parameter in ours.named_parameters()}
    assert own.keys() == gradients.keys()
    for name, gradient in own.items():
        assert gradient is not None
        torch.testing.assert_close(gradient, gradients[name], atol=1e-5, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_round_trips_are_exact(theirs: CLIPModel) -> None:
    theirs_state, ours_state = theirs.state_dict(), toy_clip().state_dict()
    for first, there_and_back in [
        (theirs_state, to_hf(from_hf(theirs_state))),
        (ours_state, from_hf(to_hf(ours_state))),
    ]:
        assert first.keys() == there_and_back.keys()
        assert all(torch.equal(tensor, there_and_back[name]) for name, tensor in first.items())


def test_exported_weights_share_no_memory() -> None:
    """Else safetensors refuses to write them."""
    weights = to_hf(toy_clip().state_dict())
    assert len({tensor.untyped_storage().data_ptr() for tensor in weights.values()}) == len(weights)


def test_positions_of_older_files_are_passed_over(theirs: CLIPModel) -> None:
    old = {**theirs.state_dict(), "text_model.embeddings.position_ids": torch.arange(12)[None]}
    assert from_hf(old).keys() == toy_clip().state_dict().keys()


def unlike_clip() -> Iterator[tuple[CLIP, str]]:
    yield toy_clip(image={"stem": [8]}), r"where: image\.patch_embed\.0\.weight"
    yield toy_clip(image={"pool": "mean"}), r"missing: vision_model\.embeddings\.class_embedding"


@pytest.mark.parametrize(("model", "reason"), unlike_clip(), ids=["stem", "mean"])
def test_a_model_that_is_not_clips_is_refused(model: CLIP, reason: str) -> None:
    with pytest.raises(RunError, match=reason):
        to_hf(model.state_dict())


def test_weights_of_another_model_are_refused() -> None:
    with pytest.raises(RunError, match=r"where: bert\.pooler\.weight"):
        from_hf({"bert.pooler.weight": torch.zeros(1)})
