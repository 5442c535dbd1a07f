"""`Bert` and its heads to and from Hugging Face's ``BertModel``, ``BertForPreTraining``, ``BertForMaskedLM`` and
``BertForSequenceClassification``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmtrain.model.bert import Bert
from mmtrain.model.bert_heads import BertClassifier, BertPretraining
from mmtrain.model.hf.folder import Folder
from mmtrain.model.hf.names import Names, Theirs, Weights, shapes_of, under
from mmtrain.model.hf.settings import Settings, activation_from_hf, blocks_of, class_names

BertModel = Bert | BertPretraining | BertClassifier

_LAYER: dict[str, Theirs] = {
    "attention.qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "attention.out": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "mlp.up": "intermediate.dense",
    "mlp.down": "output.dense",
    "norm2": "output.LayerNorm",
}
_ENCODER: dict[str, Theirs] = {
    "token_embed.weight": "embeddings.word_embeddings.weight",
    "positions": "embeddings.position_embeddings.weight",
    "segment_embed.weight": "embeddings.token_type_embeddings.weight",
    "norm_embed": "embeddings.LayerNorm",
    **under("transformer.blocks.{n}.", "encoder.layer.{n}.", _LAYER),
}
_POOLER: dict[str, Theirs] = {"pooler": "pooler.dense"}
_MLM: dict[str, Theirs] = {
    "mlm.dense": "cls.predictions.transform.dense",
    "mlm.norm": "cls.predictions.transform.LayerNorm",
    "mlm.bias": "cls.predictions.bias",
}
_TIED = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
_DERIVED = (r".*embeddings\.position_ids",)  # 0, 1, 2, ... in files of older versions


def to_hf(model: BertModel, classes: Sequence[str] = ()) -> tuple[Settings, Weights]:
    """Config and weights: of ``BertForPreTraining`` with next sentence prediction, of ``BertForMaskedLM`` without.

    Args:
        model: The model.
        classes: Names of a classifier's classes; their numbers if empty.

    Raises:
        RunError: The model has no such form, as a classifier without pooler has not.
    """
    encoder = model if isinstance(model, Bert) else model.encoder
    names = _names(model)
    blocks = blocks_of(encoder.transformer)
    config = {
        "architectures": [names.model],
        "model_type": "bert",
        "dtype": "float32",
        "vocab_size": encoder.vocab_size,
        "max_position_embeddings": encoder.context_length,
        "type_vocab_size": encoder.segment_embed.num_embeddings,
        "hidden_size": blocks.d_model,
        "num_hidden_layers": blocks.num_layers,
        "num_attention_heads": blocks.num_heads,
        "intermediate_size": blocks.mlp_hidden,
        "hidden_act": blocks.activation,
        "layer_norm_eps": blocks.norm_eps,
        "hidden_dropout_prob": encoder.dropout.p,
        "attention_probs_dropout_prob": blocks.attention_dropout,
        "tie_word_embeddings": True,
        "pad_token_id": 0,
    }
    if isinstance(model, BertClassifier):
        config |= class_names(model.num_classes, tuple(classes))
        config["problem_type"] = "regression" if model.num_classes == 1 else "single_label_classification"
    return config, names.to_theirs(model.state_dict())


def from_hf(folder: Folder) -> BertModel:
    """The model of a folder; one whose architecture is none of the four is taken for a ``BertModel``.

    Raises:
        RunError: The folder's weights are not those of its config; all differences are listed.
    """
    weights = {_modern(name): tensor for name, tensor in folder.weights.items()}
    model = _empty(folder, has_pooler=any(name.endswith("pooler.dense.weight") for name in weights))
    model.load_state_dict(_names(model).to_ours(weights, shapes_of(model), where=folder.where))
    return model


def settings_from_hf(config: Mapping[str, Any]) -> Settings:
    """The constructor's arguments of a `Bert` that this config stands for, but for its pooler."""
    d_model = config.get("hidden_size", 768)
    return {
        "vocab_size": config.get("vocab_size", 30522),
        "context_length": config.get("max_position_embeddings", 512),
        "num_segments": config.get("type_vocab_size", 2),
        "d_model": d_model,
        "num_layers": config.get("num_hidden_layers", 12),
        "num_heads": config.get("num_attention_heads", 12),
        "mlp_ratio": config.get("intermediate_size", 3072) / d_model,
        "activation": activation_from_hf(config.get("hidden_act", "gelu")),
        "norm_eps": config.get("layer_norm_eps", 1e-12),
        "dropout": config.get("hidden_dropout_prob", 0.1),
        "attention_dropout": config.get("attention_probs_dropout_prob", 0.1),
    }


def _empty(folder: Folder, *, has_pooler: bool) -> BertModel:
    encoder = Bert(**settings_from_hf(folder.config), pooler=has_pooler)
    if folder.architecture in ("BertForPreTraining", "BertForMaskedLM"):
        return BertPretraining(encoder=encoder)
    if folder.architecture == "BertForSequenceClassification":
        return BertClassifier(encoder=encoder, num_classes=len(folder.config.get("id2label", (0, 1))))
    return encoder


def _names(model: BertModel) -> Names:
    if isinstance(model, Bert):
        pooler = _POOLER if model.pooler is not None else {}
        return Names("BertModel", {**_ENCODER, **pooler}, derived=_DERIVED)
    encoder = under("encoder.", "bert.", {**_ENCODER, **_POOLER})
    if isinstance(model, BertClassifier):
        return Names("BertForSequenceClassification", {**encoder, "head": "classifier"}, derived=_DERIVED)
    if model.nsp is not None:
        table = {**encoder, **_MLM, "nsp": "cls.seq_relationship"}
        return Names("BertForPreTraining", table, tied=_TIED, derived=_DERIVED)
    table = {**under("encoder.", "bert.", _ENCODER), **_MLM}
    return Names("BertForMaskedLM", table, tied=_TIED, derived=_DERIVED)


def _modern(name: str) -> str:
    """The name as it is since 2019; files from before, converted from TensorFlow, have gamma and beta."""
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
