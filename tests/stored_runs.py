"""A run's directory as training leaves it, without the training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from mmtrain.callback.checkpoint_io import checkpoint_path, seal, write_json
from mmtrain.config import instantiate
from mmtrain.data.decode.text_tokenizer import TextTokenizer
from mmtrain.run.data_record import TOKENIZER

BLOCKS = {"d_model": 32, "num_layers": 2, "num_heads": 4}
VIT = {"_target_": "mmtrain.model.vit.ViT", "image_size": 32, "patch_size": 16, **BLOCKS}
HF_VIT = {**VIT, "norm_pre": False, "patch_bias": True}
CLIP = {
    "_target_": "mmtrain.model.clip.CLIP",
    "embed_dim": 16,
    "image": VIT,
    "text": {
        "_target_": "mmtrain.model.text.TextTransformer",
        "vocab_size": 49408,
        "context_length": 14,
        **{**BLOCKS, "d_model": 8, "num_layers": 1},
    },
}
VIT_CLASSIFIER = {"_target_": "mmtrain.model.vit_classifier.ViTClassifier", "num_classes": 3, "backbone": HF_VIT}
GPT = {"_target_": "mmtrain.model.gpt.GPT", "vocab_size": 320, "context_length": 64, **BLOCKS}
LLAMA = {**GPT, "norm": "rms", "activation": "swiglu", "bias": False, "rope_theta": 10000.0, "num_kv_heads": 2}
BERT = {"_target_": "mmtrain.model.bert.Bert", "vocab_size": 320, "context_length": 64, **BLOCKS}
BERT_PRETRAINING = {"_target_": "mmtrain.model.bert_heads.BertPretraining", "encoder": BERT}
BERT_CLASSIFIER = {"_target_": "mmtrain.model.bert_heads.BertClassifier", "num_classes": 2, "encoder": BERT}


def build(node: dict[str, Any], seed: int = 0) -> nn.Module:
    """The model of a node, every weight moved, in evaluation mode."""
    torch.manual_seed(seed)
    model: nn.Module = instantiate(node, "model")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def write_run(
    run: Path,
    node: dict[str, Any],
    *,
    seed: int = 0,
    tokenizer: TextTokenizer | None = None,
    average: bool = False,
    step: int = 7,
) -> nn.Module:
    """Writes a run of one checkpoint and returns its model."""
    model = build(node, seed)
    weights = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    path = checkpoint_path(run / "checkpoints", step)
    path.parent.mkdir(parents=True)
    callbacks = {"Ema": {"average": {name: 2 * tensor for name, tensor in weights.items()}}} if average else {}
    torch.save({"state_dict": weights, "callbacks": callbacks}, path.with_suffix(".unsealed"))
    seal(path.with_suffix(".unsealed"), path, step=step, metrics={"eval/test/accuracy": 0.875})
    config = {"name": run.name, "seed": 0, "model": node, "callback": {"ema": {"decay": 0.9} if average else None}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    if tokenizer is not None:
        tokenizer.save(run / TOKENIZER)
    write_json(
        run / "data.json",
        {
            "fingerprints": {"train": "f" * 64},
            "classes": ["cat", "dog", "cow"][: node.get("num_classes", 0)],
            "licence": "MIT",
        },
    )
    return model
