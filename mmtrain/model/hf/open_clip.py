"""`CLIP` to and from open_clip's ``CLIP``, in the folder that its ``local-dir:`` and ``hf-hub:`` names load.

SigLIP's logit bias has a place here; in open_clip's published SigLIP models both towers are others (timm's, and a text
tower without causal mask).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmtrain.errors import RunError
from mmtrain.model.clip import CLIP
from mmtrain.model.hf.folder import Folder
from mmtrain.model.hf.names import Names, Theirs, Weights, shapes_of, under
from mmtrain.model.hf.settings import Settings, blocks_of, patch_size
from mmtrain.model.text import TextTransformer
from mmtrain.model.vit import ViT
from mmtrain.nn.transformer import Transformer

_LAYER: dict[str, Theirs] = {
    "norm1": "ln_1",
    "attention.qkv.weight": "attn.in_proj_weight",
    "attention.qkv.bias": "attn.in_proj_bias",
    "attention.out": "attn.out_proj",
    "norm2": "ln_2",
    "mlp.up": "mlp.c_fc",
    "mlp.down": "mlp.c_proj",
}
_TABLE: dict[str, Theirs] = {
    "logit_scale": "logit_scale",
    "image_projection.weight": "visual.proj",
    "text_projection.weight": "text_projection",
    "image.class_token": "visual.class_embedding",
    "image.patch_embed.weight": "visual.conv1.weight",
    "image.positions": "visual.positional_embedding",
    "image.norm_pre": "visual.ln_pre",
    "image.norm_post": "visual.ln_post",
    "text.token_embed.weight": "token_embedding.weight",
    "text.positions": "positional_embedding",
    "text.norm_final": "ln_final",
    **under("image.transformer.blocks.{n}.", "visual.transformer.resblocks.{n}.", _LAYER),
    **under("text.transformer.blocks.{n}.", "transformer.resblocks.{n}.", _LAYER),
}
_ACTIVATIONS = {"quick_gelu", "gelu"}
_NORM_EPS = 1e-5


def to_open_clip(model: CLIP) -> tuple[Settings, Weights]:
    """``open_clip_config.json`` and weights.

    Raises:
        RunError: The model has a part that open_clip's ``CLIP`` has not, such as a convolutional stem, or lacks one.
    """
    image, text = model.image, model.text
    if not isinstance(image, ViT) or not isinstance(text, TextTransformer):
        raise _unlike(f"its towers are {type(image).__name__} and {type(text).__name__}")
    activations = {blocks_of(tower.transformer).activation for tower in (image, text)}
    if len(activations) > 1 or not activations <= _ACTIVATIONS:
        raise _unlike(f"its activations are {', '.join(sorted(activations))}, and both are gelu, or quick_gelu, there")
    config: Settings = {
        "embed_dim": model.image_projection.out_features,
        "quick_gelu": activations == {"quick_gelu"},
        "vision_cfg": {
            "image_size": image.image_size,
            "patch_size": patch_size(image),
            "head_width": image.transformer.head_dim,
            **_tower(image.transformer),
        },
        "text_cfg": {
            "context_length": text.context_length,
            "vocab_size": text.vocab_size,
            "heads": text.transformer.num_heads,
            **_tower(text.transformer),
        },
    }
    if model.logit_bias is not None:
        config["init_logit_bias"] = model.logit_bias.item()
    size = {"size": image.image_size, "mode": "RGB", "interpolation": "bicubic", "resize_mode": "shortest"}
    colours = {"mean": model.image_mean.flatten().tolist(), "std": model.image_std.flatten().tolist()}
    weights = _names(biased=model.logit_bias is not None).to_theirs(model.state_dict())
    return {"model_cfg": config, "preprocess_cfg": {**size, **colours}}, weights


def from_open_clip(folder: Folder) -> CLIP:
    """The model of a folder of open_clip's ``CLIP``.

    Raises:
        RunError: It is another of open_clip's models, or its weights are not those of its config; all are listed.
    """
    config = folder.config["model_cfg"]
    image, text = config["vision_cfg"], config["text_cfg"]
    quick_gelu = bool(config.get("quick_gelu", False))
    width = image.get("width", 768)
    colours = {
        name: value for name, value in folder.config.get("preprocess_cfg", {}).items() if name in ("mean", "std")
    }
    model = CLIP(
        image=ViT(
            image_size=image.get("image_size", 224),
            patch_size=image.get("patch_size", 16),
            num_heads=width // image.get("head_width", 64),
            **_tower_from(image, 768, quick_gelu),
        ),
        text=TextTransformer(
            context_length=text.get("context_length", 77),
            vocab_size=text.get("vocab_size", 49408),
            num_heads=text.get("heads", 8),
            **_tower_from(text, 512, quick_gelu),
        ),
        embed_dim=config["embed_dim"],
        init_logit_bias=config.get("init_logit_bias"),
        **colours,
    )
    names = _names(biased=model.logit_bias is not None)
    model.load_state_dict(names.to_ours(folder.weights, shapes_of(model), where=folder.where))
    return model


def _names(*, biased: bool) -> Names:
    return Names(
        "open_clip CLIP",
        {**_TABLE, "logit_bias": "logit_bias"} if biased else _TABLE,
        transposed=frozenset({"image_projection.weight", "text_projection.weight"}),
    )


def _tower(transformer: Transformer) -> Settings:
    blocks = blocks_of(transformer)
    tower: Settings = {
        "width": blocks.d_model,
        "layers": blocks.num_layers,
        "mlp_ratio": blocks.mlp_hidden / blocks.d_model,
    }
    return tower if blocks.norm_eps == _NORM_EPS else {**tower, "norm_kwargs": {"eps": blocks.norm_eps}}


def _tower_from(config: Mapping[str, Any], width: int, quick_gelu: bool) -> Settings:
    return {
        "d_model": config.get("width", width),
        "num_layers": config.get("layers", 12),
        "mlp_ratio": config.get("mlp_ratio", 4.0),
        "activation": "quick_gelu" if quick_gelu else "gelu",
        "norm_eps": (config.get("norm_kwargs") or {}).get("eps", _NORM_EPS),
    }


def _unlike(reason: str) -> RunError:
    return RunError(
        f"this model is not one that open_clip's CLIP can hold: {reason}",
        mend="exchange it as our own weights, in safetensors",
    )
