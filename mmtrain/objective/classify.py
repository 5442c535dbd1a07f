"""Classification and regression of images and texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmtrain import distributed
from mmtrain.errors import ConfigError
from mmtrain.model.bert_heads import BertClassifier
from mmtrain.nn.accumulate import Sums, accumulate
from mmtrain.objective.base import Batch, Objective, Optim, share_of
from mmtrain.objective.class_metrics import ClassMetrics, MetricName, check_metrics, default_metrics


@runtime_checkable
class Classifier(Protocol):
    """What the objective asks of a model, which maps its inputs to logits ``(B, C)``, or predictions ``(B, 1)``."""

    inputs: tuple[str, ...]
    """The fields of a batch that it takes."""

    num_classes: int
    """Number of classes, or 1 for a regression."""

    def flops_per_sample(self) -> float:
        """Training FLOPs of one sample."""


class ClassifyObjective(Objective):
    """Batch -> logits -> cross-entropy, or squared error -> metrics over whole evaluation sets.

    Args:
        model: A `Classifier`.
        optim: Optimizer and schedule.
        micro_batch_size: Samples that are on the device at once; None takes a rank's whole share of a batch.
        label_smoothing: Share of a label that all classes have alike (Szegedy et al. 2016, arXiv:1512.00567, section
            7); in training only.
        metrics: What is measured beside the loss; None takes those of `default_metrics`.

    Raises:
        ConfigError: The model is no classifier, or an argument does not fit it.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        optim: Optim,
        micro_batch_size: int | None = None,
        label_smoothing: float = 0.0,
        metrics: Sequence[MetricName] | None = None,
    ) -> None:
        super().__init__(model=model, optim=optim, micro_batch_size=micro_batch_size)
        if not isinstance(model, Classifier):
            reason = f"{type(model).__name__} does not classify"
            raise ConfigError(reason, where="model", mend="choose a classifier, such as model=vit_s")
        num_classes = model.num_classes if model.num_classes > 1 else None
        if not 0 <= label_smoothing < 1 or (label_smoothing and num_classes is None):
            reason = f"label_smoothing={label_smoothing} is out of range"
            mend = "set a number in [0, 1), or 0 for a regression, whose labels are no classes"
            raise ConfigError(reason, where="objective.label_smoothing", mend=mend)
        self.inputs = model.inputs
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing
        self.metrics = tuple(metrics) if metrics is not None else default_metrics(num_classes)
        check_metrics(self.metrics, num_classes)
        self._length: Tensor | None = None
        self._measured: dict[str, ClassMetrics] = {}

    def setup(self, stage: str) -> None:
        """Compares the model with the data.

        Raises:
            ConfigError: Their classes differ in number, or texts have more tokens, in a row or in the vocabulary, than
                the model.
        """
        classes = self.data.num_classes
        if classes != self.num_classes:
            wanted = classes or 1
            labels = "numbers" if classes is None else f"{classes} classes"
            reason = f"the labels of the data are {labels}, and the model has num_classes={self.num_classes or 1}"
            raise ConfigError(reason, where="model.num_classes", mend=f"set model.num_classes={wanted}")
        if isinstance(self.model, BertClassifier):
            self.model.encoder.require_positions(self.data.max_length)
            self.model.encoder.require_vocabulary(self.data.vocab_size)

    def forward(self, batch: Batch) -> Tensor:
        """Logits ``(B, C)``, or predictions ``(B, 1)``, in fp32 or better."""
        logits_BC: Tensor = self.model(*(batch[name] for name in self.inputs))
        return logits_BC.to(torch.promote_types(logits_BC.dtype, torch.float32))

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """The loss of this rank, of which the mean over ranks is the mean over the samples of the global batch."""
        count = share_of(batch["weight"].sum())
        self._length = batch["length"].float().mean() if "length" in batch else None

        def loss_of(part: Batch) -> tuple[Tensor, Sums]:
            loss_B = sample_losses(self(part), part, self.label_smoothing)
            return (loss_B * part["weight"]).sum() / count, {}

        loss, _ = accumulate(loss_of, self.parts(batch), list(self.model.parameters()))
        return {"loss": loss}

    @property
    def flops_per_sample(self) -> float:
        """Training FLOPs of a sample; of a text, one of the mean length of this rank's last batch."""
        if isinstance(self.model, BertClassifier):
            return self.model.flops_per_sample(None if self._length is None else self._length.item())
        flops: float = self.model.flops_per_sample()  # type: ignore[operator]
        return flops

    def on_validation_epoch_start(self) -> None:
        """Forgets the evaluation before."""
        self._measured = {name: ClassMetrics(self.metrics, self.num_classes, self.device) for name in self.eval_sets}

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Adds the samples that all ranks have of a batch, filler left out, to the metrics of their set."""
        logits_BC = self(batch)
        columns = (logits_BC, batch["label"], sample_losses(logits_BC, batch), batch["weight"])
        logits_NC, label_N, loss_N, weight_N = (distributed.all_gather(column) for column in columns)
        real_N = weight_N > 0
        if real_N.any():
            list(self._measured.values())[dataloader_idx].update(logits_NC[real_N], label_N[real_N], loss_N[real_N])

    def on_validation_epoch_end(self) -> None:
        """Logs the metrics of each set; they are the same on all ranks."""
        for name, measured in self._measured.items():
            metrics = measured.compute()
            self.log_dict({f"eval/{name}/{key}": value for key, value in metrics.items()}, logger=False)


def sample_losses(logits_BC: Tensor, batch: Batch, label_smoothing: float = 0.0) -> Tensor:
    """The loss of each sample, ``(B,)``: cross-entropy, or, where labels are no classes, squared error.

    A sample that is mixed of two has ``mix`` of the loss of ``label`` and the rest of that of ``label_b``, which is the
    cross-entropy to the mixed label (mixup, equation 2).
    """
    if batch["label"].is_floating_point():
        return F.mse_loss(logits_BC.squeeze(1), batch["label"].to(logits_BC.dtype), reduction="none")
    loss_B = F.cross_entropy(logits_BC, batch["label"], reduction="none", label_smoothing=label_smoothing)
    if "label_b" not in batch:
        return loss_B
    other_B = F.cross_entropy(logits_BC, batch["label_b"], reduction="none", label_smoothing=label_smoothing)
    return torch.lerp(other_B, loss_B, batch["mix"].to(loss_B.dtype))
