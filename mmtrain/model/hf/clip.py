"""`CLIP` to and from Hugging Face's ``CLIPModel``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmtrain.errors import RunError
from mmtrain.model.clip import CLIP
from mmtrain.model.hf.folder import Folder
from mmtrain.model.hf.names import Names, Theirs, Weights, shapes_of, under
from mmtrain.model.hf.settings import Settings, activation_from_hf, blocks_of, patch_size
from mmtrain.model.text import TextTransformer
from mmtrain.model.vit import ViT
from mmtrain.nn.transformer import Transformer

_LAYER: dict[str, Theirs] = {
    "norm1": "layer_norm1",
    "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention.out": "self_attn.out_proj",
    "norm2": "layer_norm2",
    "mlp.up": "mlp.fc1",
    "mlp.down": "mlp.fc2",
}
_LAYERS = under("transformer.blocks.{n}.", "encoder.layers.{n}.", _LAYER)
_IMAGE: dict[str, Theirs] = _LAYERS | {
    "class_token": "embeddings.class_embedding",
    "patch_embed.weight": "embeddings.patch_embedding.weight",
    "positions": "embeddings.position_embedding.weight",
    "norm_pre": "pre_layrnorm",
    "norm_post": "post_layernorm",
}
_TEXT: dict[str, Theirs] = _LAYERS | {
    "token_embed.weight": "embeddings.token_embedding.weight",
    "positions": "embeddings.position_embedding.weight",
    "norm_final": "final_layer_norm",
}
_NAMES = Names(
    "CLIPModel",
    {
        "logit_scale": "logit_scale",
        "image_projection.weight": "visual_projection.weight",
        "text_projection.weight": "text_projection.weight",
        **under("image.", "vision_model.", _IMAGE),
        **under("text.", "text_model.", _TEXT),
    },
    derived=(r".*\.position_ids",),  # 0, 1, 2, ... in files of older versions
)


def to_hf(model: CLIP) -> tuple[Settings, Weights]:
    """Config and weights of a ``CLIPModel``.

    Raises:
        RunError: The model has a part that ``CLIPModel`` has not, such as a convolutional stem, or lacks one.
    """
    if not isinstance(model.image, ViT) or not isinstance(model.text, TextTransformer):
        towers = f"{type(model.image).__name__} and {type(model.text).__name__}"
        raise RunError(
            f"this model is not one that CLIPModel can hold: its towers are {towers}",
            mend="exchange it as our own weights, in safetensors",
        )
    weights = _NAMES.to_theirs(model.state_dict())
    return _config(model, model.image, model.text), weights


def from_hf(folder: Folder) -> CLIP:
    """The model of a folder of ``CLIPModel``.

    Raises:
        RunError: The folder's weights are not those of its config; all differences are listed.
    """
    settings = settings_from_hf(folder.config)
    model = CLIP(
        image=ViT(**settings["image"]), text=TextTransformer(**settings["text"]), embed_dim=settings["embed_dim"]
    )
    model.load_state_dict(_NAMES.to_ours(folder.weights, shapes_of(model), where=folder.where))
    return model


def settings_from_hf(config: Mapping[str, Any]) -> Settings:
    """The constructors' arguments, of the `CLIP` and of its towers, that this config stands for."""
    image, text = config.get("vision_config", {}), config.get("text_config", {})
    return {
        "embed_dim": config.get("projection_dim", 512),
        "image": {
            "image_size": image.get("image_size", 224),
            "patch_size": image.get("patch_size", 32),
            **_blocks_from_hf(image, width=768, heads=12),
        },
        "text": {
            "context_length": text.get("max_position_embeddings", 77),
            "vocab_size": text.get("vocab_size", 49408),
            **_blocks_from_hf(text, width=512, heads=8),
        },
    }


def _config(model: CLIP, image: ViT, text: TextTransformer) -> Settings:
    embed_dim = model.image_projection.out_features
    shared = {"projection_dim": embed_dim, "attention_dropout": 0.0}
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "dtype": "float32",
        "projection_dim": embed_dim,
        "logit_scale_init_value": model.logit_scale.item(),
        "vision_config": {
            "model_type": "clip_vision_model",
            "image_size": image.image_size,
            "patch_size": patch_size(image),
            **_blocks_to_hf(image.transformer),
            **shared,
        },
        "text_config": {
            "model_type": "clip_text_model",
            "max_position_embeddings": text.context_length,
            "vocab_size": text.vocab_size,
            # 2 is transformers' word for "the token with the largest id ends a text", as in OpenAI's own files.
            **{"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1},
            **_blocks_to_hf(text.transformer),
            **shared,
        },
    }


def _blocks_to_hf(transformer: Transformer) -> Settings:
    blocks = blocks_of(transformer)
    return {
        "hidden_size": blocks.d_model,
        "num_hidden_layers": blocks.num_layers,
        "num_attention_heads": blocks.num_heads,
        "intermediate_size": blocks.mlp_hidden,
        "hidden_act": blocks.activation,
        "layer_norm_eps": blocks.norm_eps,
    }


def _blocks_from_hf(config: Mapping[str, Any], *, width: int, heads: int) -> Settings:
    """Settings of a tower; files leave out what is a tower's default."""
    d_model = config.get("hidden_size", width)
    return {
        "d_model": d_model,
        "num_layers": config.get("num_hidden_layers", 12),
        "num_heads": config.get("num_attention_heads", heads),
        "mlp_ratio": config.get("intermediate_size", 4 * width) / d_model,
        "activation": activation_from_hf(config.get("hidden_act", "quick_gelu")),
        "norm_eps": config.get("layer_norm_eps", 1e-5),
    }
