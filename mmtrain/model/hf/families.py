"""The family of a model, and of a folder: one way in, and one way out."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from mmtrain.errors import RunError, did_you_mean
from mmtrain.model.bert import Bert
from mmtrain.model.bert_heads import BertClassifier, BertPretraining
from mmtrain.model.clip import CLIP
from mmtrain.model.gpt import GPT
from mmtrain.model.hf import bert, clip, gpt2, llama, open_clip, vit
from mmtrain.model.hf.folder import Folder
from mmtrain.model.hf.names import Weights
from mmtrain.model.hf.settings import Settings
from mmtrain.model.vit_classifier import ViTClassifier

_READERS = {
    "bert": bert.from_hf,
    "clip": clip.from_hf,
    "gpt2": gpt2.from_hf,
    "llama": llama.from_hf,
    "vit": vit.from_hf,
}


def to_hf(model: nn.Module, classes: Sequence[str] = ()) -> tuple[Settings, Weights]:
    """Hugging Face's config and weights of a model.

    Args:
        model: The model.
        classes: Names of a classifier's classes; their numbers if empty.

    Raises:
        RunError: Hugging Face has no such model; every part that differs is listed.
    """
    if isinstance(model, CLIP):
        return clip.to_hf(model)
    if isinstance(model, ViTClassifier):
        return vit.to_hf(model, classes)
    if isinstance(model, Bert | BertPretraining | BertClassifier):
        return bert.to_hf(model, classes)
    if isinstance(model, GPT):
        return gpt2.to_hf(model) if model.transformer.rope_theta is None else llama.to_hf(model)
    raise RunError(
        f"Hugging Face has no counterpart of a {type(model).__name__}",
        mend="exchange it as our own weights, in safetensors",
    )


def from_folder(folder: Folder) -> nn.Module:
    """The model of a folder of Hugging Face's or open_clip's form, on the CPU.

    Raises:
        RunError: Its family is not known here, or its weights are not those of its config; all differences are listed.
    """
    if "model_cfg" in folder.config:
        return open_clip.from_open_clip(folder)
    kind = folder.config.get("model_type", "")
    if kind not in _READERS:
        raise RunError(
            f"models of type {kind!r} are not known here", where=folder.where, mend=did_you_mean(kind, _READERS)
        )
    return _READERS[kind](folder)
