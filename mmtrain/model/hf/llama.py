"""`GPT` in Llama's form to and from Hugging Face's ``LlamaForCausalLM``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from mmtrain.errors import RunError
from mmtrain.model.gpt import GPT
from mmtrain.model.hf.folder import Folder
from mmtrain.model.hf.names import Names, Theirs, Weights, shapes_of, under
from mmtrain.model.hf.settings import Settings, activation_from_hf, blocks_of

_LAYER: dict[str, Theirs] = {
    "norm1.weight": "input_layernorm.weight",
    "attention.qkv.weight": ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
    "attention.out.weight": "self_attn.o_proj.weight",
    "norm2.weight": "post_attention_layernorm.weight",
    "mlp.gate.weight": "mlp.gate_proj.weight",
    "mlp.up.weight": "mlp.up_proj.weight",
    "mlp.down.weight": "mlp.down_proj.weight",
}
_TABLE: dict[str, Theirs] = {
    "token_embed.weight": "model.embed_tokens.weight",
    **under("transformer.blocks.{n}.", "model.layers.{n}.", _LAYER),
    "norm_final.weight": "model.norm.weight",
}
_DERIVED = (r".*\.rotary_emb\.inv_freq",)  # in files of older versions


def to_hf(model: GPT) -> tuple[Settings, Weights]:
    """Config and weights of a ``LlamaForCausalLM``.

    Raises:
        RunError: The model has another form than Llama's.
    """
    blocks, theta = blocks_of(model.transformer), model.transformer.rope_theta
    if theta is None or blocks.activation != "silu" or not isinstance(model.norm_final, nn.RMSNorm):
        raise RunError(
            "this model is not one that LlamaForCausalLM can hold: it needs rotary positions, RMS norms and SwiGLU",
            mend="exchange it as our own weights, in safetensors",
        )
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "float32",
        "vocab_size": model.vocab_size,
        "max_position_embeddings": model.context_length,
        "hidden_size": blocks.d_model,
        "num_hidden_layers": blocks.num_layers,
        "num_attention_heads": blocks.num_heads,
        "num_key_value_heads": blocks.num_kv_heads,
        "head_dim": model.transformer.head_dim,
        "intermediate_size": blocks.mlp_hidden,
        "hidden_act": "silu",
        "rms_norm_eps": blocks.norm_eps,
        "rope_theta": theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": model.head is None,
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id")),
    }
    return config, _names(model).to_theirs(model.state_dict())


def from_hf(folder: Folder) -> GPT:
    """The model of a folder of ``LlamaForCausalLM``.

    Raises:
        RunError: The folder's weights are not those of its config; all differences are listed.
    """
    model = GPT(**settings_from_hf(folder.config))
    model.load_state_dict(_names(model).to_ours(folder.weights, shapes_of(model), where=folder.where))
    return model


def settings_from_hf(config: Mapping[str, Any]) -> Settings:
    """The constructor's arguments of a `GPT` that this config stands for.

    Raises:
        RunError: The rotary positions are stretched in a way that `GPT` has not.
    """
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        mend = "take a model whose rotary positions are not stretched"
        raise RunError(f"rotary positions of type {kind!r} are not known here", where="rope_parameters", mend=mend)
    heads = config.get("num_attention_heads", 32)
    return {
        "vocab_size": config.get("vocab_size", 32000),
        "context_length": config.get("max_position_embeddings", 2048),
        "d_model": config.get("hidden_size", 4096),
        "num_layers": config.get("num_hidden_layers", 32),
        "num_heads": heads,
        "num_kv_heads": config.get("num_key_value_heads") or heads,
        "mlp_hidden": config.get("intermediate_size", 11008),
        "activation": activation_from_hf(config.get("hidden_act", "silu")),
        "norm": "rms",
        "norm_eps": config.get("rms_norm_eps", 1e-6),
        "rope_theta": rope.get("rope_theta", config.get("rope_theta", 10000.0)),
        "bias": False,
        "tied": config.get("tie_word_embeddings", False),
    }


def _names(model: GPT) -> Names:
    group = model.transformer.num_heads // model.transformer.num_kv_heads
    if model.head is None:
        tied = {"lm_head.weight": "model.embed_tokens.weight"}
        return Names("LlamaForCausalLM", _TABLE, query_group=group, tied=tied, derived=_DERIVED)
    table = {**_TABLE, "head.weight": "lm_head.weight"}
    return Names("LlamaForCausalLM", table, query_group=group, derived=_DERIVED)
