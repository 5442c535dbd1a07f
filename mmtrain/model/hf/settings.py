"""Settings of a model in our words and in Hugging Face's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from mmtrain.errors import RunError, did_you_mean
from mmtrain.model.vit import ViT
from mmtrain.nn.mlp import QuickGELU, ReLUSquared
from mmtrain.nn.transformer import Block, Transformer

Settings = dict[str, Any]

_TO_HF = {
    "gelu": "gelu",
    "gelu_tanh": "gelu_pytorch_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "relu_squared": "relu2",
    "swiglu": "silu",
}
_FROM_HF = {theirs: ours for ours, theirs in _TO_HF.items()} | {"gelu_new": "gelu_tanh", "gelu_fast": "gelu_tanh"}


@dataclass(frozen=True)
class Blocks:
    """What a stack of blocks was built with, as every family has it; ``activation`` is Hugging Face's word."""

    d_model: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    mlp_hidden: int
    activation: str
    norm_eps: float | None
    attention_dropout: float


def blocks_of(transformer: Transformer) -> Blocks:
    """The settings of a stack, read off its modules."""
    block = transformer.blocks[0]
    assert isinstance(block, Block)
    assert isinstance(block.norm1, nn.LayerNorm | nn.RMSNorm)
    return Blocks(
        d_model=transformer.d_model,
        num_layers=transformer.num_layers,
        num_heads=transformer.num_heads,
        num_kv_heads=transformer.num_kv_heads,
        mlp_hidden=block.mlp.up.out_features,
        activation=_TO_HF[_activation(block.mlp.activation)],
        norm_eps=block.norm1.eps,
        attention_dropout=block.attention.dropout,
    )


def patch_size(image: ViT) -> int:
    """Height and width of a patch, in pixels."""
    patches = image.num_tokens - (image.class_token is not None)
    return image.image_size // round(patches**0.5)


def activation_from_hf(name: str) -> str:
    """Our word for an activation of Hugging Face's.

    Raises:
        RunError: We have none.
    """
    if name not in _FROM_HF:
        raise RunError(
            f"the activation {name!r} is not known here", where="config.json", mend=did_you_mean(name, _FROM_HF)
        )
    return _FROM_HF[name]


def class_names(num_classes: int, names: tuple[str, ...]) -> Settings:
    """The entries of ``config.json`` that name the classes; by their numbers where they have no names."""
    every = names or tuple(map(str, range(num_classes)))
    return {
        "id2label": {str(number): name for number, name in enumerate(every)},
        "label2id": {name: number for number, name in enumerate(every)},
    }


def _activation(module: nn.Module) -> str:
    if isinstance(module, nn.GELU):
        return "gelu" if module.approximate == "none" else "gelu_tanh"
    names = {QuickGELU: "quick_gelu", nn.ReLU: "relu", ReLUSquared: "relu_squared", nn.SiLU: "swiglu"}
    return names[type(module)]
