"""Contrastive language-image pre-training, as CLIP (Radford et al. 2021) and SigLIP (Zhai et al. 2023) do it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmtrain.errors import ConfigError
from mmtrain.model.clip import CLIP
from mmtrain.nn.infonce import infonce_loss
from mmtrain.nn.siglip import siglip_loss
from mmtrain.objective.base import Batch, Objective, Optim
from mmtrain.objective.clip_evaluation import (
    Encoded,
    Images,
    accuracy,
    candidates,
    class_features,
    contrast,
    encode_in_shares,
    gather_images,
    recall,
)

Loss = Literal["infonce", "siglip"]


class ClipObjective(Objective):
    """Batch -> two towers -> contrastive loss over the global batch -> zero-shot accuracy and recall.

    Args:
        model: The two towers.
        optim: Optimizer and schedule.
        micro_batch_size: Pairs that are encoded at once. A rank's share beyond it is encoded in chunks whose
            activations are computed again in the backward pass, so that the batch of the loss, and its gradient, stay
            whole. None encodes the share at once.
        loss: ``infonce``, CLIP's softmax over the global batch; or ``siglip``, a sigmoid for each pair.
        recall_at: The k of recall@k.

    Raises:
        ConfigError: The model has no bias for ``siglip``, or has one for ``infonce``, which cannot train it.
    """

    model: CLIP

    def __init__(
        self,
        *,
        model: CLIP,
        optim: Optim,
        micro_batch_size: int | None = None,
        loss: Loss = "infonce",
        recall_at: Sequence[int] = (1, 5, 10),
    ) -> None:
        super().__init__(model=model, optim=optim, micro_batch_size=micro_batch_size)
        if (loss == "siglip") != (model.logit_bias is not None):
            raise ConfigError(
                f"the loss is {loss}, and the model has {'no' if model.logit_bias is None else 'a'} logit bias",
                where="objective.loss, model.init_logit_bias",
                mend=f"set model.init_logit_bias={-10.0 if loss == 'siglip' else 'null'}",
            )
        self.recall_at = tuple(recall_at)
        self._text_length: Tensor | None = None
        self.encoded: dict[str, Encoded] = {}
        self._images: dict[str, list[Images]] = {}

    def forward(self, image_bCHW: Tensor, text_bT: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors of images and texts, encoded in micro-batches."""
        lock = self.model.lock
        return (
            self._encode(self.model.encode_image, image_bCHW, keep="image" in lock),
            self._encode(self.model.encode_text, text_bT, keep="text" in lock),
        )

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """The loss of this rank, of which the mean over ranks is the loss of the global batch."""
        self._text_length = self.model.text.lengths(batch["text"]).float().mean()
        image_bD, text_bD = self(batch["image"], batch["text"])
        scale, bias, weight_b = self.model.scale(), self.model.logit_bias, batch["weight"]
        if bias is None:
            return {"loss": infonce_loss(image_bD, text_bD, scale, weight_b), "logit_scale": scale.detach()}
        loss = siglip_loss(image_bD, text_bD, scale, bias, weight_b)
        return {"loss": loss, "logit_scale": scale.detach(), "logit_bias": bias.detach().clone()}

    @property
    def flops_per_sample(self) -> float:
        """Training FLOPs of a pair whose text has the mean length of this rank's last batch."""
        return self.model.flops_per_sample(None if self._text_length is None else self._text_length.item())

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Steps, then bounds the temperature, before anything looks at the weights."""
        super().optimizer_step(*args, **kwargs)
        self.model.clamp_logit_scale()

    def bounds(self) -> dict[nn.Parameter, tuple[float, float]]:
        """The temperature's, for strategies that step a copy of it."""
        most = self.model.max_logit_scale
        return {} if most is None else {self.model.logit_scale: (0.0, math.log(most))}

    def on_validation_epoch_start(self) -> None:
        """Forgets the evaluation before."""
        self._images, self.encoded = {name: [] for name in self.eval_sets}, {}

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Encodes this rank's images of a batch; returns their unit vectors, ``(b, D)``."""
        name = list(self._images)[dataloader_idx]
        image_bD = self.model.encode_image(batch["image"])
        self._images[name].append(Images(image_bD, batch["label"], batch["weight"], batch["captions"]))
        return image_bD

    def on_validation_epoch_end(self) -> None:
        """Brings the ranks' parts together and measures each set; all ranks log the same numbers."""
        for name, eval_set in self.eval_sets.items():
            images = gather_images(self._images.pop(name))
            if eval_set.task == "zeroshot":
                encoded = self._with_classes(images, eval_set)
                metrics = accuracy(encoded, eval_set.categories)
            else:
                encoded = self._with_captions(images, eval_set)
                metrics = recall(encoded, self.recall_at)
            metrics["loss"] = contrast(encoded, self.model.scale(), self.model.logit_bias)
            self.encoded[name] = encoded
            self.log_dict({f"eval/{name}/{key}": value for key, value in metrics.items()}, logger=False)
        self.log("eval/logit_scale", self.model.scale(), logger=False)

    def _encode(self, encode: Callable[[Tensor], Tensor], inputs: Tensor, *, keep: bool) -> Tensor:
        """Unit vectors, by chunks; their activations are kept where that costs nothing, or there is one chunk."""
        chunks = inputs.split(self.micro_batch_size or len(inputs))
        if keep or len(chunks) == 1:
            return torch.cat([encode(chunk) for chunk in chunks])
        return torch.cat([checkpoint(encode, chunk, use_reentrant=False) for chunk in chunks])

    def _encode_text(self, text_BT: Tensor) -> Tensor:
        return self.model.encode_text(text_BT.to(self.device))

    def _with_classes(self, images: Images, eval_set: Any) -> Encoded:
        class_CD = class_features(self._encode_text, eval_set.prompts())
        return Encoded(images.feature, class_CD, eval_set.classes, F.one_hot(images.label, len(class_CD)).bool())

    def _with_captions(self, images: Images, eval_set: Any) -> Encoded:
        captions, positive_NC = candidates(images)
        caption_CD = encode_in_shares(self._encode_text, eval_set.tokenize(captions))
        return Encoded(images.feature, caption_CD, captions, positive_NC)
