"""What lies beside exported weights: the tokenizer, the view of images, and how to end a text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from mmtrain.data.decode.text_tokenizer import TextTokenizer
from mmtrain.model.bert import Bert
from mmtrain.model.bert_heads import BertClassifier, BertPretraining
from mmtrain.model.clip import CLIP
from mmtrain.model.gpt import GPT
from mmtrain.model.vit_classifier import ViTClassifier
from mmtrain.run.data_record import TOKENIZER


def write_tokenizer(folder: Path, run: Path, model: nn.Module) -> TextTokenizer | None:
    """Copies the run's tokenizer, with the most tokens that the model takes; None where the run has none."""
    if not (run / TOKENIZER).is_dir():
        return None
    tokenizer = TextTokenizer(run / TOKENIZER)
    tokenizer.save(folder, max_length=_context_length(model))
    return tokenizer


def special_ids(tokenizer: TextTokenizer | None, model: nn.Module) -> dict[str, int]:
    """The entries of ``config.json`` that name special tokens. CLIP's are those of its family."""
    if tokenizer is None or isinstance(model, CLIP):
        return {}
    ids = {"bos_token_id": tokenizer.bos, "eos_token_id": tokenizer.eos, "pad_token_id": tokenizer.pad}
    return {name: number for name, number in ids.items() if number is not None}


def write_generation_config(folder: Path, model: nn.Module, ids: Mapping[str, int]) -> None:
    """Writes ``generation_config.json`` for a language model."""
    if isinstance(model, GPT):
        pad = {"pad_token_id": ids["eos_token_id"]} if "eos_token_id" in ids else {}
        _write(folder / "generation_config.json", {"do_sample": True, **pad, **ids})


def write_preprocessor(folder: Path, model: nn.Module) -> None:
    """Writes ``preprocessor_config.json`` for a model of images: the geometry of `EvalTransform`, mean and deviation.

    The processor is CLIP's for all models: ViT's would squeeze the image to a square, and ours cuts one out. Where an
    odd number of columns or rows is cut off, it may cut one more on the other side: it rounds down.
    """
    if not isinstance(model, CLIP | ViTClassifier):
        return
    tower = model.get_submodule("image" if isinstance(model, CLIP) else "backbone")
    size = tower.image_size
    content = {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": size},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": model.image_mean.flatten().tolist(),
        "image_std": model.image_std.flatten().tolist(),
    }
    processor = {"processor_class": "CLIPProcessor"} if isinstance(model, CLIP) else {}
    _write(folder / "preprocessor_config.json", {**content, **processor})


def _context_length(model: nn.Module) -> int | None:
    if isinstance(model, CLIP):
        return model.text.context_length
    if isinstance(model, BertPretraining | BertClassifier):
        return model.encoder.context_length
    return model.context_length if isinstance(model, Bert | GPT) else None


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
