from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from clip_toys import VOCAB, toy_clip, toy_images, toy_texts
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mmtrain.config.instantiate import instantiate
from mmtrain.errors import ConfigError
from mmtrain.model.bert import Bert
from mmtrain.model.bert_tower import BertTextTower
from mmtrain.model.clip import CLIP

CONF = Path(__file__).parents[2] / "conf"


def test_conf_clip_is_the_published_vit_b_32() -> None:
    node = yaml.safe_load((CONF / "model/clip.yaml").read_text())
    with torch.device("meta"):
        model: CLIP = instantiate(node)
    assert sum(parameter.numel() for parameter in model.parameters()) == 151_277_313
    assert (model.image.num_tokens, model.text.context_length) == (50, 77)


def test_features_are_unit_vectors_in_fp32() -> None:
    model = toy_clip()
    with torch.autocast("cpu", torch.bfloat16):
        features = model(toy_images(4), toy_texts(4))
    for feature in features:
        assert feature.dtype == torch.float32
        torch.testing.assert_close(feature.norm(dim=-1), torch.ones(4))


def test_temperature_starts_as_published_and_stays_in_bounds() -> None:
    model = toy_clip()
    assert model.scale().item() == pytest.approx(1 / 0.07)
    for value, bounded in [(5.0, 100.0), (-1.0, 1.0), (math.log(20), 20.0)]:
        torch.nn.init.constant_(model.logit_scale, value)
        model.clamp_logit_scale()
        assert model.scale().item() == pytest.approx(bounded)
        assert model.logit_scale.requires_grad


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"init_temperature": 0.0}, "temperature is 0.0"),
        ({"init_temperature": -0.1}, "temperature is -0.1"),
        ({"init_temperature": 0.001}, "temperature of 0.001 is a scale of 1000, outside of its bounds 1 and 100"),
        ({"init_temperature": 2.0}, "temperature of 2.0 is a scale of 0.5, outside"),
        ({"max_logit_scale": 0.5}, "max_logit_scale is 0.5"),
    ],
)
def test_a_temperature_out_of_range_is_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        toy_clip(model=options)


def test_siglip_starts_as_published_without_bounds() -> None:
    model = toy_clip(model={"init_temperature": 0.1, "max_logit_scale": None, "init_logit_bias": -10.0})
    assert model.logit_bias is not None
    assert (model.scale().item(), model.logit_bias.item()) == (pytest.approx(10.0), -10.0)
    torch.nn.init.constant_(model.logit_scale, -1.0)
    model.clamp_logit_scale()
    assert model.logit_scale.item() == -1.0
    assert "logit_bias" not in toy_clip().state_dict()


def test_a_locked_tower_needs_weights_from_somewhere() -> None:
    with pytest.raises(ConfigError, match="the image tower is locked, and has no weights but random ones"):
        toy_clip(model={"lock": ["image"]})
    toy_clip(model={"lock": ["image"]}, image={"pretrained": "runs/vit"})
    toy_clip(model={"lock": ["image"], "pretrained": "runs/clip"})


def test_a_locked_tower_costs_its_forward_pass() -> None:
    free, locked = toy_clip(), toy_clip(model={"lock": ["image", "text"], "pretrained": "runs/clip"})
    towers = free.image.flops_per_sample() + free.text.flops_per_sample()
    assert free.flops_per_sample() - locked.flops_per_sample() == pytest.approx(towers * 2 / 3)


def test_any_text_tower_will_do() -> None:
    encoder = Bert(vocab_size=VOCAB, context_length=12, d_model=48, num_layers=1, num_heads=4, pooler=False)
    model = CLIP(image=toy_clip().image, text=BertTextTower(encoder=encoder), embed_dim=16)
    image, text = model(toy_images(2), toy_texts(2))
    assert image.shape == text.shape == (2, 16)


def test_projections_start_as_published() -> None:
    model = CLIP(image=toy_clip().image, text=toy_clip().text, embed_dim=1024)
    for projection in (model.image_projection, model.text_projection):
        assert projection.weight.std().item() == pytest.approx(32**-0.5, rel=0.03)


def test_pixels_are_normalised_as_by_clips_processor() -> None:
    processor = pytest.importorskip("transformers.models.clip.image_processing_pil_clip").CLIPImageProcessorPil(
        do_resize=False, do_center_crop=False
    )
    model, images = toy_clip(), toy_images(3)
    seen: list[torch.Tensor] = []
    model.image.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model.encode_image(images)
    expected = processor(list(images.numpy()), input_data_format="channels_first", return_tensors="pt").pixel_values
    torch.testing.assert_close(seen[0], expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("image", [{}, {"stem": [8, 16], "pool": "mean"}], ids=["plain", "stem"])
def test_flops_are_those_that_torch_counts(image: dict[str, Any]) -> None:
    """All but one thing: the gradient of the pixels, a third of the first convolution, is counted and never made."""
    model, texts = toy_clip(image={"image_size": 32, **image}), toy_texts(1)
    # Torch counts the products of attention's plain form only.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        image_D, text_D = model(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), texts)
        (image_D.sum() + text_D.sum()).backward()
    first = next(module for module in model.image.modules() if isinstance(module, torch.nn.Conv2d))
    side = 32 // first.stride[0]
    length = int(model.text.lengths(texts))
    assert model.flops_per_sample(length) == counter.get_total_flops() + 2 * first.weight.numel() * side * side
    assert length < 12
    assert model.flops_per_sample() > model.flops_per_sample(length)
