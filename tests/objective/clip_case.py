"""A small CLIP objective, and the trainer of a unit test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader

from mmtrain.data.loader.loader import Loader
from mmtrain.model.clip import CLIP, TowerName
from mmtrain.model.text import TextTransformer
from mmtrain.model.vit import ViT
from mmtrain.objective.base import Batch, Optim
from mmtrain.objective.clip import ClipObjective, Loss
from mmtrain.optim.adamw import AdamW
from mmtrain.optim.schedule import Cosine

END = 99


def recipe(lr: float = 2e-3) -> AdamW:
    return AdamW(lr=lr, schedule=Cosine(warmup_steps=2), betas=(0.9, 0.98), eps=1e-6, weight_decay=0.1)


def small_objective(
    *,
    micro_batch_size: int | None = None,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    patch_dropout: float = 0.0,
    optim: Optim | None = None,
    loss: Loss = "infonce",
    lock: Sequence[TowerName] = (),
) -> ClipObjective:
    torch.manual_seed(0)
    tower: dict[str, Any] = {"d_model": 32, "num_layers": 2, "num_heads": 4, "mlp_ratio": 2.0, "dropout": dropout}
    model = CLIP(
        image=ViT(image_size=16, patch_size=8, stem=[8], drop_path=drop_path, patch_dropout=patch_dropout, **tower),
        text=TextTransformer(context_length=8, vocab_size=100, **tower),
        embed_dim=16,
        init_logit_bias=-3.0 if loss == "siglip" else None,
        lock=lock,
        pretrained="elsewhere",
    )
    return ClipObjective(model=model, optim=optim or recipe(), micro_batch_size=micro_batch_size, loss=loss)


def random_batch(n: int, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(1, END, (n, 8), generator=generator)
    text[:, 6], text[:, 7] = END, 0
    return {
        "image": torch.randint(0, 256, (n, 3, 16, 16), dtype=torch.uint8, generator=generator),
        "text": text,
        "weight": torch.ones(n),
        "label": torch.full((n,), -1),
        "key": [str(number) for number in range(n)],
    }


def trainer(max_steps: int = -1, **options: Any) -> pl.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return pl.Trainer(
        **{"accelerator": "cpu", "devices": 1, **options},
        **quiet,
        max_steps=max_steps,
        enable_checkpointing=False,
        use_distributed_sampler=False,
    )


class Losses(pl.Callback):
    """Keeps the loss of every step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.values.append(outputs["loss"].item())


def fit(objective: ClipObjective, batches: list[Batch] | Loader, **options: Any) -> list[float]:
    """Trains one step on each batch; the losses."""
    losses = Losses()
    # Lightning takes a bare list for a list of loaders.
    batches = batches if isinstance(batches, Loader) else DataLoader(batches, batch_size=None)  # type: ignore
    trainer(len(batches), callbacks=[losses], **options).fit(objective, train_dataloaders=batches)
    return losses.values
