"""Metrics of classification and regression, by torchmetrics, over a whole evaluation set."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics import MeanMetric, Metric, MetricCollection, PearsonCorrCoef, SpearmanCorrCoef
from torchmetrics.classification import (
    BinaryAccuracy,
    BinaryF1Score,
    BinaryPrecision,
    BinaryRecall,
    MulticlassAccuracy,
    MulticlassF1Score,
    MulticlassMatthewsCorrCoef,
    MulticlassPrecision,
    MulticlassRecall,
)

from mmtrain.errors import ConfigError

MetricName = Literal["accuracy", "top5", "precision", "recall", "f1", "mcc", "pearson", "spearman"]

_BINARY = {
    "accuracy": BinaryAccuracy,
    "precision": BinaryPrecision,
    "recall": BinaryRecall,
    "f1": BinaryF1Score,
}
_MACRO = {"precision": MulticlassPrecision, "recall": MulticlassRecall, "f1": MulticlassF1Score}


def default_metrics(num_classes: int | None) -> tuple[MetricName, ...]:
    """Accuracy and F1, and top-5 accuracy among more than five classes; correlations for a regression."""
    if num_classes is None:
        return ("pearson", "spearman")
    return ("accuracy", "top5", "f1") if num_classes > 5 else ("accuracy", "f1")


def check_metrics(names: Sequence[MetricName], num_classes: int | None) -> None:
    """Refuses what is not defined for so many classes.

    Raises:
        ConfigError: It names the metric, and those that there are.
    """
    known: list[str] = ["pearson", "spearman"] if num_classes is None else [*_BINARY, "mcc"]
    if num_classes is not None and num_classes > 5:
        known.append("top5")
    for name in names:
        if name not in known:
            task = "a regression" if num_classes is None else f"{num_classes} classes"
            raise ConfigError(
                f"the metric {name} is not defined for {task}",
                where="objective.metrics",
                mend=f"choose among {', '.join(known)}, or set objective.metrics=null",
            )


class ClassMetrics:
    """The mean loss and the chosen metrics. Every rank is to be given all ranks' samples: nothing is synchronised.

    With two classes, precision, recall and F1 are those of class 1, otherwise means over the classes.

    Args:
        names: The metrics.
        num_classes: Number of classes; None for a regression.
        device: Where the predictions lie.
    """

    def __init__(self, names: Sequence[MetricName], num_classes: int | None, device: torch.device) -> None:
        check_metrics(names, num_classes)
        self._binary = num_classes == 2
        self._loss = MeanMetric(sync_on_compute=False).to(device)
        chosen: dict[str, Metric | MetricCollection] = {name: _metric(name, num_classes) for name in names}
        # Groups merge metrics that agree on the first batch, as top-5 accuracy and F1 do where all is right.
        self._metrics = MetricCollection(chosen, compute_groups=False).to(device)

    def update(self, logits_NC: Tensor, label_N: Tensor, loss_N: Tensor) -> None:
        """Adds N samples: their logits ``(N, C)``, or predictions ``(N, 1)``, their labels and their losses."""
        self._loss.update(loss_N)
        if self._binary:
            self._metrics.update(logits_NC.argmax(dim=1), label_N)
        else:
            self._metrics.update(logits_NC.squeeze(1), label_N)

    def compute(self) -> dict[str, Tensor]:
        """``loss`` and each metric, by name."""
        return {"loss": self._loss.compute(), **self._metrics.compute()}


def _metric(name: MetricName, num_classes: int | None) -> Metric:
    exact: dict[str, Any] = {"sync_on_compute": False}
    if num_classes is None:
        with warnings.catch_warnings():  # that ranks can only be known of all samples
            warnings.simplefilter("ignore")
            return PearsonCorrCoef(**exact) if name == "pearson" else SpearmanCorrCoef(**exact)
    exact["validate_args"] = False  # the data node checks labels, and torchmetrics would wait for the device
    if name == "mcc":
        # Of a constant guess it is 0 (scikit-learn, GLUE), but for two classes torchmetrics takes a limit of its own.
        # A third class that never comes changes nothing else.
        return MulticlassMatthewsCorrCoef(max(3, num_classes), **exact)
    if num_classes == 2:
        return _BINARY[name](**exact)
    if name in _MACRO:
        return _MACRO[name](num_classes, average="macro", **exact)
    return MulticlassAccuracy(num_classes, average="micro", top_k=5 if name == "top5" else 1, **exact)
