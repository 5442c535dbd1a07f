"""Weights of `CLIP` to and from Hugging Face's ``CLIPModel``.

Names differ, and ours keep an attention's queries, keys and values in one matrix. What weights do not say must be set
alike by hand: OpenAI's were trained with ``activation: quick_gelu``, most of open_clip's with ``gelu``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from mmtrain.errors import RunError

_NAMES = {
    "logit_scale": "logit_scale",
    "image_projection.weight": "visual_projection.weight",
    "text_projection.weight": "text_projection.weight",
    "image.class_token": "vision_model.embeddings.class_embedding",
    "image.patch_embed.weight": "vision_model.embeddings.patch_embedding.weight",
    "image.positions": "vision_model.embeddings.position_embedding.weight",
    "image.norm_pre.weight": "vision_model.pre_layrnorm.weight",
    "image.norm_pre.bias": "vision_model.pre_layrnorm.bias",
    "image.norm_post.weight": "vision_model.post_layernorm.weight",
    "image.norm_post.bias": "vision_model.post_layernorm.bias",
    "text.token_embed.weight": "text_model.embeddings.token_embedding.weight",
    "text.positions": "text_model.embeddings.position_embedding.weight",
    "text.norm_final.weight": "text_model.final_layer_norm.weight",
    "text.norm_final.bias": "text_model.final_layer_norm.bias",
}
_TOWERS = {
    "image.transformer.blocks": "vision_model.encoder.layers",
    "text.transformer.blocks": "text_model.encoder.layers",
}
_LAYERS = {
    "norm1": "layer_norm1",
    "attention.qkv": "self_attn.qkv_proj",  # stands for their q_proj, k_proj and v_proj
    "attention.out": "self_attn.out_proj",
    "norm2": "layer_norm2",
    "mlp.up": "mlp.fc1",
    "mlp.down": "mlp.fc2",
}
_BLOCK = re.compile(r"(?P<tower>.+?)\.(?P<number>\d+)\.(?P<layer>.+)\.(?P<kind>weight|bias)")
_QKV = re.compile(r"\.([qkv])_proj\.")


def to_hf(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a ``CLIPModel`` from the state dict of a `CLIP`, as copies.

    Raises:
        RunError: The model has a part that ``CLIPModel`` has not, such as a convolutional stem, or lacks one.
    """
    theirs: dict[str, Tensor] = {}
    for name, tensor in state_dict.items():
        new = _translate(name, _NAMES, _TOWERS, _LAYERS)
        if ".qkv_proj." in new:
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                theirs[new.replace(".qkv_proj.", f".{letter}_proj.")] = part.clone()
        else:
            theirs[new] = tensor.clone()
    _require(_NAMES.values(), theirs)
    return theirs


def from_hf(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a `CLIP` from the weights of a ``CLIPModel``, as copies.

    Raises:
        RunError: These are not the weights of a ``CLIPModel``.
    """
    names, towers, layers = _inverse(_NAMES), _inverse(_TOWERS), _inverse(_LAYERS)
    ours: dict[str, Tensor] = {}
    for name, tensor in state_dict.items():
        if name.endswith(".position_ids"):
            continue  # 0, 1, 2, ... in files of older versions
        new = _translate(_QKV.sub(".qkv_proj.", name), names, towers, layers)
        if _QKV.search(name):
            tensor = torch.cat([state_dict[_QKV.sub(f".{letter}_proj.", name)] for letter in "qkv"])
        ours[new] = tensor.clone()
    _require(_NAMES, ours)
    return ours


def _translate(name: str, names: Mapping[str, str], towers: Mapping[str, str], layers: Mapping[str, str]) -> str:
    if name in names:
        return names[name]
    found = _BLOCK.fullmatch(name)
    if found is None or found["tower"] not in towers or found["layer"] not in layers:
        mend = "exchange the published form of CLIP: a ViT with pool: cls and no stem, and its text tower"
        raise RunError("a weight has no counterpart on the other side", where=name, mend=mend)
    return f"{towers[found['tower']]}.{found['number']}.{layers[found['layer']]}.{found['kind']}"


def _inverse(table: Mapping[str, str]) -> dict[str, str]:
    return {theirs: ours for ours, theirs in table.items()}


def _require(names: Iterable[str], weights: Mapping[str, Tensor]) -> None:
    if missing := sorted(set(names) - weights.keys()):
        raise RunError(f"weights that CLIP has are missing: {', '.join(missing)}", mend="exchange both towers, whole")
