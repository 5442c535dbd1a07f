"""`GPT` in GPT-2's form to and from Hugging Face's ``GPT2LMHeadModel``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from mmtrain.errors import RunError
from mmtrain.model.gpt import GPT
from mmtrain.model.hf.folder import Folder
from mmtrain.model.hf.names import Names, Theirs, Weights, shapes_of, under
from mmtrain.model.hf.settings import Settings, activation_from_hf, blocks_of

_LAYER: dict[str, Theirs] = {
    "norm1": "ln_1",
    "attention.qkv": "attn.c_attn",
    "attention.out": "attn.c_proj",
    "norm2": "ln_2",
    "mlp.up": "mlp.c_fc",
    "mlp.down": "mlp.c_proj",
}
_BLOCK = "transformer.blocks.{n}."
_TIED = Names(
    "GPT2LMHeadModel",
    {
        "token_embed.weight": "transformer.wte.weight",
        "positions": "transformer.wpe.weight",
        **under(_BLOCK, "transformer.h.{n}.", _LAYER),
        "norm_final": "transformer.ln_f",
    },
    transposed=frozenset(
        f"{_BLOCK}{layer}.weight" for layer in ("attention.qkv", "attention.out", "mlp.up", "mlp.down")
    ),
    tied={"lm_head.weight": "transformer.wte.weight"},
    derived=(r"transformer\.h\.\d+\.attn\.(bias|masked_bias)",),  # the causal mask, in files of older versions
)
_UNTIED = replace(_TIED, table={**_TIED.table, "head.weight": "lm_head.weight"}, tied={})


def to_hf(model: GPT) -> tuple[Settings, Weights]:
    """Config and weights of a ``GPT2LMHeadModel``. Biases that the model has not are written as zeros.

    Raises:
        RunError: The model has another form than GPT-2's.
    """
    if model.positions is None or not isinstance(model.norm_final, nn.LayerNorm):
        raise RunError(
            "this model is not one that GPT2LMHeadModel can hold: it needs learned positions and layer norms",
            mend="exchange it as our own weights, in safetensors",
        )
    blocks = blocks_of(model.transformer)
    config = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "dtype": "float32",
        "vocab_size": model.vocab_size,
        "n_positions": model.context_length,
        "n_embd": blocks.d_model,
        "n_layer": blocks.num_layers,
        "n_head": blocks.num_heads,
        "n_inner": blocks.mlp_hidden,
        # The same function by the name that files of GPT-2 have for it.
        "activation_function": "gelu_new" if blocks.activation == "gelu_pytorch_tanh" else blocks.activation,
        "layer_norm_epsilon": blocks.norm_eps,
        "tie_word_embeddings": model.head is None,
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id")),
    }
    return config, _names(model).to_theirs(model.state_dict())


def from_hf(folder: Folder) -> GPT:
    """The model of a folder of ``GPT2LMHeadModel`` or ``GPT2Model``.

    Raises:
        RunError: The folder's weights are not those of its config; all differences are listed.
    """
    weights = folder.weights
    if not any(name.startswith("transformer.") for name in weights):  # as OpenAI's own on the hub
        weights = {f"transformer.{name}": tensor for name, tensor in weights.items()}
    model = GPT(**settings_from_hf(folder.config))
    model.load_state_dict(_names(model).to_ours(weights, shapes_of(model), where=folder.where))
    return model


def settings_from_hf(config: Mapping[str, Any]) -> Settings:
    """The constructor's arguments of a `GPT` that this config stands for."""
    d_model = config.get("n_embd", 768)
    return {
        "vocab_size": config.get("vocab_size", 50257),
        "context_length": config.get("n_positions", 1024),
        "d_model": d_model,
        "num_layers": config.get("n_layer", 12),
        "num_heads": config.get("n_head", 12),
        "mlp_hidden": config.get("n_inner") or 4 * d_model,
        "activation": activation_from_hf(config.get("activation_function", "gelu_new")),
        "norm_eps": config.get("layer_norm_epsilon", 1e-5),
        "tied": config.get("tie_word_embeddings", True),
    }


def _names(model: GPT) -> Names:
    return _TIED if model.head is None else _UNTIED
