"""A small classifier, its data, and a trainer's data module around them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from clip_case import Losses, recipe, trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mmtrain import distributed
from mmtrain.data.loader.loader import Loader
from mmtrain.model.vit import ViT
from mmtrain.model.vit_classifier import ViTClassifier
from mmtrain.objective.base import Batch, Optim
from mmtrain.objective.classify import ClassifyObjective


def small_model(num_classes: int = 7, **backbone: Any) -> ViTClassifier:
    torch.manual_seed(0)
    tower = {"image_size": 16, "patch_size": 4, "d_model": 32, "num_layers": 2, "num_heads": 4, "mlp_ratio": 2.0}
    return ViTClassifier(backbone=ViT(**{**tower, "init": "bert", **backbone}), num_classes=num_classes)


def small_objective(
    num_classes: int = 7, *, backbone: dict[str, Any] | None = None, optim: Optim | None = None, **options: Any
) -> ClassifyObjective:
    model = small_model(num_classes, **(backbone or {}))
    return ClassifyObjective(model=model, optim=optim or recipe(), **options)


def random_batch(n: int, num_classes: int | None = 7, seed: int = 0, mixed: bool = False) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    brightness = torch.rand(n, 1, 1, 1, generator=generator)  # noise alone looks the same to any model
    batch = {
        "image": (torch.randint(0, 256, (n, 3, 16, 16), generator=generator) * brightness).to(torch.uint8),
        "weight": torch.ones(n),
        "key": [str(number) for number in range(n)],
    }
    if num_classes is None:
        return {**batch, "label": torch.randn(n, generator=generator)}
    batch["label"] = torch.randint(0, num_classes, (n,), generator=generator)
    if mixed:
        batch["label_b"] = torch.randint(0, num_classes, (n,), generator=generator)
        batch["mix"] = torch.rand(n, generator=generator)
    return batch


@dataclass
class FakeSet:
    name: str
    loader: Any


@dataclass
class FakeNode:
    num_classes: int | None


class FakeData(pl.LightningDataModule):
    def __init__(
        self, num_classes: int | None, eval_sets: dict[str, list[Batch]], train: list[Batch] | Loader | None = None
    ) -> None:
        super().__init__()
        self.data = FakeNode(num_classes)
        self.eval_sets = {name: FakeSet(name, loader(batches)) for name, batches in eval_sets.items()}
        self.train = train

    def train_dataloader(self) -> Any:
        assert self.train is not None
        return self.train if isinstance(self.train, Loader) else loader(self.train)

    def val_dataloader(self) -> list[Any]:
        return [eval_set.loader for eval_set in self.eval_sets.values()]


def loader(batches: list[Batch]) -> Any:
    return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]  # Lightning takes a list for many loaders


def share(batch: Batch) -> Batch:
    """This rank's rows."""
    size, rank = len(batch["weight"]) // distributed.world_size(), distributed.rank()
    return {name: field[rank * size : (rank + 1) * size] for name, field in batch.items()}


def fit(objective: ClassifyObjective, batches: list[Batch], **options: Any) -> list[float]:
    """Trains one step on each batch; the losses."""
    losses = Losses()
    num_classes = objective.num_classes
    fake = FakeData(num_classes, {}, batches)
    trainer(len(batches), callbacks=[losses], limit_val_batches=0, **options).fit(objective, datamodule=fake)
    return losses.values


class Step(nn.Module):
    """What a data-parallel wrapper calls."""

    def __init__(self, objective: ClassifyObjective) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, batch: Batch) -> Tensor:
        return self.objective.training_step(batch, 0)["loss"]
