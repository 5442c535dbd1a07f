"""Contrastive language-image pre-training (Radford et al. 2021, arXiv:2103.00020)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, NamedTuple, Protocol

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.checkpoint import checkpoint
from torchmetrics.functional.classification import multiclass_accuracy

from mmtrain import distributed
from mmtrain.model.clip import CLIP
from mmtrain.nn.contrastive import clip_loss
from mmtrain.nn.retrieval import recall_at
from mmtrain.optim.schedule import Schedule

Batch = dict[str, Any]


class Optim(Protocol):
    """Recipe of an optimizer and of its learning rate over the run."""

    schedule: Schedule

    def build(self, model: nn.Module) -> Optimizer: ...


@dataclass(frozen=True)
class Encoded:
    """An evaluation set in the shared space, on all ranks, without filler. N images, C candidate captions, width D.

    Attributes:
        image_ND: Unit vectors of the images.
        caption_CD: Unit vectors of the captions that are ranked for each image.
        captions: The captions, C strings.
        positive_NC: Which captions are right for an image.
    """

    image_ND: Tensor
    caption_CD: Tensor
    captions: list[str]
    positive_NC: Tensor


class ClipObjective(pl.LightningModule):
    """Batch -> two towers -> contrastive loss over the global batch -> zero-shot accuracy and recall.

    Args:
        model: The two towers.
        optim: Optimizer and schedule.
        micro_batch_size: Pairs that are encoded at once. A rank's share beyond it is encoded in chunks whose
            activations are computed again in the backward pass, so that the batch of the loss, and its gradient, stay
            whole. None encodes the share at once.
        recall_at: The k of recall@k.
    """

    def __init__(
        self,
        *,
        model: CLIP,
        optim: Optim,
        micro_batch_size: int | None = None,
        recall_at: Sequence[int] = (1, 5, 10),
    ) -> None:
        super().__init__()
        self.model = model
        self.optim = optim
        self.micro_batch_size = micro_batch_size
        self.recall_at = tuple(recall_at)
        self.flops_per_sample = model.flops_per_sample()
        self.encoded: dict[str, Encoded] = {}
        self._parts: dict[str, list[_Part]] = {}

    def forward(self, image_bCHW: Tensor, text_bT: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors of images and texts, encoded in micro-batches."""
        size = self.micro_batch_size or len(image_bCHW)
        if size >= len(image_bCHW):
            image_bD, text_bD = self.model(image_bCHW, text_bT)
            return image_bD, text_bD
        chunks = zip(image_bCHW.split(size), text_bT.split(size), strict=True)
        parts = [checkpoint(self.model, image, text, use_reentrant=False) for image, text in chunks]
        image_parts, text_parts = zip(*parts, strict=True)
        return torch.cat(image_parts), torch.cat(text_parts)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """The loss of this rank, of which the mean over ranks is the loss of the global batch."""
        image_bD, text_bD = self(batch["image"], batch["text"])
        scale = self.model.scale()
        return {"loss": clip_loss(image_bD, text_bD, scale, batch["weight"]), "logit_scale": scale.detach()}

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Steps, then bounds the temperature, before anything looks at the weights."""
        super().optimizer_step(*args, **kwargs)
        self.model.clamp_logit_scale()

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """The optimizer, and its learning rate as a function of the step."""
        schedule, total_steps = self.optim.schedule, self.trainer.max_steps
        if (warmup := schedule.warmup(total_steps)) > total_steps:
            warnings.warn(f"the warmup of {warmup} steps is longer than the run of {total_steps}", stacklevel=2)
        optimizer = self.optim.build(self.model)
        factor = partial(schedule.factor, total_steps=total_steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"},
        }

    def on_validation_epoch_start(self) -> None:
        """Forgets the evaluation before."""
        self._parts, self.encoded = {name: [] for name in self._eval_sets()}, {}

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Encodes this rank's part of a batch; returns the unit vectors of its images, ``(b, D)``."""
        name = list(self._parts)[dataloader_idx]
        image_bD, text_bD = self.model(batch["image"], batch["text"])
        self._parts[name].append(_Part(image_bD, text_bD, batch["label"], batch["weight"], batch["caption"]))
        return image_bD

    def on_validation_epoch_end(self) -> None:
        """Brings the ranks' parts together and measures each set; all ranks log the same numbers."""
        for name, eval_set in self._eval_sets().items():
            whole = _gather(self._parts.pop(name))
            encoded = self._classes(whole, eval_set) if eval_set.task == "zeroshot" else _captions(whole)
            metrics = self._contrast(encoded)
            if eval_set.task == "zeroshot":
                metrics |= _accuracy(encoded, eval_set.categories)
            else:
                metrics |= _recall(encoded, self.recall_at)
            self.encoded[name] = encoded
            self.log_dict({f"eval/{name}/{key}": value for key, value in metrics.items()}, logger=False)
        self.log("eval/logit_scale", self.model.scale(), logger=False)

    def class_features(self, prompts_CPT: Tensor, chunk: int = 1024) -> Tensor:
        """Zero-shot classifier: the normalised mean of each class's prompts (CLIP, section 3.1.4).

        Args:
            prompts_CPT: Token ids of P prompts of T tokens for each of C classes.
            chunk: Prompts encoded at once.

        Returns:
            Unit vectors ``(C, D)``.
        """
        num_classes, num_prompts, _ = prompts_CPT.shape
        texts = prompts_CPT.flatten(0, 1).split(chunk)
        features = torch.cat([self.model.encode_text(text.to(self.device)) for text in texts])
        return F.normalize(features.view(num_classes, num_prompts, -1).mean(dim=1), dim=-1)

    def _classes(self, whole: _Part, eval_set: Any) -> Encoded:
        class_CD = self.class_features(eval_set.prompts())
        positive_NC = F.one_hot(whole.label, len(class_CD)).bool()
        return Encoded(whole.image, class_CD, eval_set.classes, positive_NC)

    def _contrast(self, encoded: Encoded) -> dict[str, Tensor]:
        logits_NC = self.model.scale() * encoded.image_ND @ encoded.caption_CD.T
        target_NC = encoded.positive_NC / encoded.positive_NC.sum(dim=1, keepdim=True)  # right captions count alike
        return {"loss": F.cross_entropy(logits_NC, target_NC)}

    def _eval_sets(self) -> dict[str, Any]:
        eval_sets: dict[str, Any] = self.trainer.datamodule.eval_sets  # type: ignore[attr-defined]
        return eval_sets


class _Part(NamedTuple):
    """Pairs of an evaluation set: unit vectors, labels, weights and the captions themselves."""

    image: Tensor
    text: Tensor
    label: Tensor
    weight: Tensor
    caption: list[str]


def _gather(parts: list[_Part]) -> _Part:
    """All ranks' pairs, filler left out."""
    *columns, captions = zip(*parts, strict=True)
    image, text, label, weight = (distributed.all_gather(torch.cat(column)) for column in columns)
    caption = list(chain.from_iterable(distributed.all_gather_object(list(chain.from_iterable(captions)))))
    real = weight > 0
    kept = [text for text, keep in zip(caption, real.tolist(), strict=True) if keep]
    return _Part(image[real], text[real], label[real], weight[real], kept)


def _captions(whole: _Part) -> Encoded:
    """A retrieval set: each distinct pair of caption and label is a candidate.

    Pairs of one label match; those without a label match where they have the caption in common.
    """
    first: dict[tuple[str, int], int] = {}
    groups: dict[str | int, int] = {}
    group_of = []
    for position, (caption, label) in enumerate(zip(whole.caption, whole.label.tolist(), strict=True)):
        first.setdefault((caption, label), position)
        group_of.append(groups.setdefault(caption if label < 0 else label, position))
    first_C = list(first.values())
    group_N = torch.tensor(group_of, device=whole.label.device)
    positive_NC = group_N[:, None] == group_N[first_C]
    return Encoded(whole.image, whole.text[first_C], [whole.caption[i] for i in first_C], positive_NC)


def _accuracy(encoded: Encoded, categories: list[str] | None) -> dict[str, Tensor]:
    """Zero-shot top-1 and top-5, and how often the category of the nearest class is right."""
    similarity_NC, label_N = encoded.image_ND @ encoded.caption_CD.T, encoded.positive_NC.int().argmax(dim=1)
    num_classes = len(encoded.captions)
    metrics = {
        f"top{k}": multiclass_accuracy(similarity_NC, label_N, num_classes, average="micro", top_k=min(k, num_classes))
        for k in (1, 5)
    }
    if categories is not None:
        names = sorted(set(categories))
        category_C = torch.tensor([names.index(name) for name in categories], device=label_N.device)
        nearest_N = similarity_NC.argmax(dim=1)
        metrics["category_accuracy"] = multiclass_accuracy(
            category_C[nearest_N], category_C[label_N], len(names), average="micro"
        )
    return metrics


def _recall(encoded: Encoded, ks: Sequence[int]) -> dict[str, Tensor]:
    """Recall@k from images to captions and from captions to images."""
    similarity_NC, positive_NC = encoded.image_ND @ encoded.caption_CD.T, encoded.positive_NC
    directions = {"i2t": (similarity_NC, positive_NC), "t2i": (similarity_NC.T, positive_NC.T)}
    return {f"{name}_recall@{k}": recall_at(*pair, k) for name, pair in directions.items() for k in ks}
