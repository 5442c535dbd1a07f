"""`ViTClassifier` and `ViT` to and from Hugging Face's ``ViTForImageClassification`` and ``ViTModel``."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from mmtrain.model.hf.folder import Folder
from mmtrain.model.hf.names import Names, Theirs, Weights, shapes_of, under
from mmtrain.model.hf.settings import Settings, activation_from_hf, blocks_of, class_names, patch_size
from mmtrain.model.vit import ViT
from mmtrain.model.vit_classifier import ViTClassifier

_LOG = logging.getLogger(__name__)

# Names as they stand in files. In memory, transformers 5 has others, which it translates as it loads and saves.
_LAYER: dict[str, Theirs] = {
    "norm1": "layernorm_before",
    "attention.qkv": ("attention.attention.query", "attention.attention.key", "attention.attention.value"),
    "attention.out": "attention.output.dense",
    "norm2": "layernorm_after",
    "mlp.up": "intermediate.dense",
    "mlp.down": "output.dense",
}
_BACKBONE: dict[str, Theirs] = under("transformer.blocks.{n}.", "encoder.layer.{n}.", _LAYER) | {
    "class_token": "embeddings.cls_token",
    "patch_embed": "embeddings.patch_embeddings.projection",
    "positions": "embeddings.position_embeddings",
    "norm_post": "layernorm",
}

_CLASSIFIER_NAMES = Names(
    "ViTForImageClassification",
    {**under("backbone.", "vit.", _BACKBONE), "head": "classifier"},
    leading={"backbone.class_token": 2, "backbone.positions": 1},
)
_BACKBONE_NAMES = Names(
    "ViTModel", _BACKBONE, leading={"class_token": 2, "positions": 1}, derived=(r"pooler\.dense\.(weight|bias)",)
)


def to_hf(model: ViTClassifier, classes: Sequence[str] = ()) -> tuple[Settings, Weights]:
    """Config and weights of a ``ViTForImageClassification``.

    Args:
        model: The model.
        classes: Names of the classes; their numbers if empty.

    Raises:
        RunError: The model has a part that ``ViTForImageClassification`` has not, such as CLIP's first norm.
    """
    backbone, blocks = model.backbone, blocks_of(model.backbone.transformer)
    config = {
        "architectures": ["ViTForImageClassification"],
        "model_type": "vit",
        "dtype": "float32",
        "image_size": backbone.image_size,
        "patch_size": patch_size(backbone),
        "num_channels": 3,
        "hidden_size": blocks.d_model,
        "num_hidden_layers": blocks.num_layers,
        "num_attention_heads": blocks.num_heads,
        "intermediate_size": blocks.mlp_hidden,
        "hidden_act": blocks.activation,
        "layer_norm_eps": blocks.norm_eps,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": blocks.attention_dropout,
        "qkv_bias": True,
        **class_names(model.num_classes, tuple(classes)),
    }
    return config, _CLASSIFIER_NAMES.to_theirs(model.state_dict())


def from_hf(folder: Folder) -> ViTClassifier | ViT:
    """The model of a folder of ``ViTForImageClassification``, or of ``ViTModel``, whose pooler is left out.

    Raises:
        RunError: The folder's weights are not those of its config; all differences are listed.
    """
    backbone = ViT(**settings_from_hf(folder.config))
    if folder.architecture == "ViTForImageClassification":
        model = ViTClassifier(backbone=backbone, num_classes=len(folder.config.get("id2label", (0, 1))))
        model.load_state_dict(_CLASSIFIER_NAMES.to_ours(folder.weights, shapes_of(model), where=folder.where))
        return model
    if any(name.startswith("pooler.") for name in folder.weights):
        _LOG.info("%s: the pooler is left out: a ViT has none", folder.where)
    backbone.load_state_dict(_BACKBONE_NAMES.to_ours(folder.weights, shapes_of(backbone), where=folder.where))
    return backbone


def settings_from_hf(config: Mapping[str, Any]) -> Settings:
    """The constructor's arguments of a `ViT` that this config stands for."""
    d_model = config.get("hidden_size", 768)
    return {
        "image_size": config.get("image_size", 224),
        "patch_size": config.get("patch_size", 16),
        "d_model": d_model,
        "num_layers": config.get("num_hidden_layers", 12),
        "num_heads": config.get("num_attention_heads", 12),
        "mlp_ratio": config.get("intermediate_size", 3072) / d_model,
        "activation": activation_from_hf(config.get("hidden_act", "gelu")),
        "norm_eps": config.get("layer_norm_eps", 1e-12),
        "norm_pre": False,
        "patch_bias": True,
    }
