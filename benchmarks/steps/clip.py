"""CLIP ViT-B/32, beside open_clip."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from mmtrain.model.clip import CLIP
from mmtrain.model.text import TextTransformer
from mmtrain.model.vit import ViT
from mmtrain.objective.clip import ClipObjective
from mmtrain.optim.adamw import AdamW
from mmtrain.optim.schedule import Constant
from steps.open_clip_source import VERSION, open_clip
from steps.step import Batch, Contender, Race, Setting, Size, compiled, training_step

VOCAB, CONTEXT = 49408, 77
EMBED = 512
END = VOCAB - 1


def race(image: Size, text: Size, pairs: int, setting: Setting, work: Path) -> Race:
    batches = [_batch(pairs, seed) for seed in range(4)]
    model = CLIP(
        image=ViT(image_size=224, patch_size=32, **image._asdict()),
        text=TextTransformer(vocab_size=VOCAB, context_length=CONTEXT, **text._asdict()),
        embed_dim=EMBED,
    )
    if setting.compile:
        for tower in (model.image, model.text):
            for block in tower.transformer.blocks:
                block.compile()
    objective = ClipObjective(model=model, optim=AdamW(lr=1e-4, schedule=Constant())).to(setting.device)

    def loss_of(batch: Batch) -> Tensor:
        return objective.training_step(batch, 0)["loss"]

    contenders = [
        Contender("mmtrain", training_step(model, loss_of, batches, setting), pairs),
        Contender(f"open_clip {VERSION}", _open_clip(image, text, batches, setting, work), pairs),
    ]
    name = f"CLIP, {image.num_layers} x {image.d_model} and {text.num_layers} x {text.d_model}"
    return Race(name, "pairs", f"{pairs} pairs", contenders, pairs * model.flops_per_sample(), target=1.1)


def _batch(pairs: int, seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    text = torch.zeros(pairs, CONTEXT, dtype=torch.long)
    for row, length in enumerate(torch.randint(8, 30, (pairs,), generator=generator).tolist()):
        text[row, :length] = torch.randint(1, END, (length,), generator=generator)
        text[row, length] = END
    image = torch.randint(0, 256, (pairs, 3, 224, 224), dtype=torch.uint8, generator=generator)
    return {"image": image, "text": text, "weight": torch.ones(pairs)}


def _open_clip(image: Size, text: Size, batches: list[Batch], setting: Setting, work: Path) -> Callable[[], None]:
    peer = open_clip(work)
    model = peer.model.CLIP(
        embed_dim=EMBED,
        vision_cfg={
            "image_size": 224,
            "patch_size": 32,
            "layers": image.num_layers,
            "width": image.d_model,
            "head_width": image.d_model // image.num_heads,
        },
        text_cfg={
            "context_length": CONTEXT,
            "vocab_size": VOCAB,
            "layers": text.num_layers,
            "width": text.d_model,
            "heads": text.num_heads,
        },
        output_dict=True,
    ).train()
    model = compiled(model, setting)
    loss = peer.loss.ClipLoss()

    def loss_of(batch: Batch) -> Tensor:
        total: Tensor = loss(**model(batch["pixels"], batch["text"]))
        return total

    # Its pictures come normalised from the loader, mmtrain's are normalised on the device.
    theirs = [{"pixels": (batch["image"].float() / 255 - 0.45) / 0.27, "text": batch["text"]} for batch in batches]
    return training_step(model, loss_of, theirs, setting)
