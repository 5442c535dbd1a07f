"""The proof of an export: the folder, loaded by its own library, gives our model's outputs on random input."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmtrain.errors import RunError
from mmtrain.model.bert import Bert
from mmtrain.model.bert_heads import BertClassifier, BertPretraining
from mmtrain.model.clip import CLIP
from mmtrain.model.gpt import GPT
from mmtrain.model.hf.families import from_folder
from mmtrain.model.hf.folder import read_folder
from mmtrain.model.text import TextTransformer
from mmtrain.model.vit import ViT
from mmtrain.model.vit_classifier import ViTClassifier
from mmtrain.run.export.own import read_own

_ROWS, _TOKENS = 4, 16
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Agreement:
    """How far an exported model is from ours.

    Attributes:
        library: What loaded the folder.
        difference: Largest difference of an output.
        largest: Largest output, by which to judge the difference.
    """

    library: str
    difference: float
    largest: float


@dataclass(frozen=True)
class _Case:
    """Random inputs in Hugging Face's words, the field to look at, and our output for them."""

    inputs: dict[str, Tensor]
    field: str
    output: Tensor


@torch.no_grad()
def check_hf(model: nn.Module, folder: Path) -> Agreement:
    """Loads a folder by transformers, or by ourselves where that is not installed, and compares the outputs.

    Raises:
        RunError: A weight is missing or unexpected there, or the outputs differ.
    """
    case = _case(model)
    if importlib.util.find_spec("transformers") is None:
        return _judge(case.output, _case(from_folder(read_folder(folder)).eval()).output, "mmtrain", folder)
    import transformers

    architecture = read_folder(folder).architecture
    with _quiet():
        theirs, told = getattr(transformers, architecture).from_pretrained(folder, output_loading_info=True)
    if wrong := sorted(
        str(name) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for name in told[kind]
    ):
        raise RunError(f"transformers finds other weights: {', '.join(wrong)}", where=str(folder))
    found = theirs.eval()(**case.inputs)[case.field]
    return _judge(case.output, found, f"transformers {transformers.__version__}", folder)


@torch.no_grad()
def check_open_clip(model: CLIP, folder: Path) -> Agreement:
    """The same for open_clip."""
    case = _clip_case(model, full=True)
    if importlib.util.find_spec("open_clip") is None:
        again = from_folder(read_folder(folder)).eval()
        assert isinstance(again, CLIP)
        return _judge(case.output, _clip_case(again, full=True).output, "mmtrain", folder)
    import open_clip

    theirs = open_clip.create_model(f"local-dir:{folder}").eval()
    image_BD, text_BD, scale, *bias = theirs(case.inputs["pixel_values"], case.inputs["input_ids"])
    logits = scale * image_BD @ text_BD.T + (bias[0] if bias else 0)
    return _judge(case.output, logits, f"open_clip {open_clip.__version__}", folder)


@torch.no_grad()
def check_own(model: nn.Module, folder: Path) -> Agreement:
    """The same for our own form: every weight must be equal."""
    again = read_own(folder).state_dict()
    difference = max((float((again[name] - w).abs().max()) for name, w in model.state_dict().items()), default=0.0)
    return Agreement("mmtrain", difference, max(float(w.abs().max()) for w in again.values()))


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers without progress bars, which are for models that take long."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _judge(ours: Tensor, theirs: Tensor, library: str, folder: Path) -> Agreement:
    agreement = Agreement(library, float((ours - theirs).abs().max()), float(ours.abs().max()))
    if not agreement.difference <= _TOLERANCE * max(1.0, agreement.largest):
        raise RunError(
            f"{library} computes something else from the export: outputs differ by {agreement.difference:.2g}",
            where=str(folder),
            mend="report this with the run's config.yaml; nothing was exported",
        )
    return agreement


def _case(model: nn.Module) -> _Case:
    cases: dict[type[nn.Module], Callable[[Any], _Case]] = {
        CLIP: lambda clip: _clip_case(clip, full=False),
        ViTClassifier: _vit_case,
        GPT: _gpt_case,
        Bert: _bert_case,
        BertPretraining: _bert_case,
        BertClassifier: _bert_case,
    }
    return cases[type(model)](model)


def _clip_case(model: CLIP, *, full: bool) -> _Case:
    """Texts are of full length for open_clip, which takes no others, and end with the largest id."""
    image, text = model.image, model.text
    assert isinstance(image, ViT) and isinstance(text, TextTransformer), "other towers have no other form"
    images = _images(image.image_size)
    texts = _tokens(text.vocab_size, text.context_length if full else min(_TOKENS, text.context_length))
    texts[:, -1] = text.vocab_size - 1
    image_BD, text_BD = model(images, texts)
    logits = model.scale() * image_BD @ text_BD.T
    if model.logit_bias is not None:
        logits = logits + model.logit_bias
    pixels = (images / 255 - model.image_mean) / model.image_std
    return _Case({"pixel_values": pixels, "input_ids": texts}, "logits_per_image", logits)


def _vit_case(model: ViTClassifier) -> _Case:
    images = _images(model.backbone.image_size)
    pixels = (images / 255 - model.image_mean) / model.image_std
    return _Case({"pixel_values": pixels}, "logits", model(images))


def _gpt_case(model: GPT) -> _Case:
    tokens = _tokens(model.vocab_size, min(_TOKENS, model.context_length))
    return _Case({"input_ids": tokens}, "logits", model.logits(model(tokens)))


def _bert_case(model: Bert | BertPretraining | BertClassifier) -> _Case:
    encoder = model if isinstance(model, Bert) else model.encoder
    tokens = _tokens(encoder.vocab_size, min(_TOKENS, encoder.context_length))
    length, segment = torch.full((_ROWS,), tokens.shape[1]), torch.zeros_like(tokens)
    inputs = {"input_ids": tokens, "token_type_ids": segment}
    if isinstance(model, BertPretraining):
        position_BM = torch.arange(tokens.shape[1]).expand_as(tokens)
        field = "logits" if model.nsp is None else "prediction_logits"
        return _Case(inputs, field, model(tokens, length, segment, position_BM)[0])
    field = "logits" if isinstance(model, BertClassifier) else "last_hidden_state"
    return _Case(inputs, field, model(tokens, length, segment))


def _images(size: int) -> Tensor:
    return torch.randint(0, 256, (_ROWS, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def _tokens(vocab_size: int, length: int) -> Tensor:
    return torch.randint(0, vocab_size - 1, (_ROWS, length), generator=torch.Generator().manual_seed(1))
