"""Pictures of what the model sees: for some images of each evaluation set, the captions it ranks first."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol, runtime_checkable

import lightning.pytorch as pl
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from mmtrain import distributed

_INK, _RIGHT, _GREY, _PAPER = (32, 32, 32), (0, 122, 61), (120, 120, 120), (255, 255, 255)


class Ranked(Protocol):
    """An encoded evaluation set: unit vectors of C candidate captions, and their texts."""

    caption_CD: Tensor
    captions: list[str]


@runtime_checkable
class TakesPictures(Protocol):
    """A logger that takes tables and pictures."""

    def log_table(self, key: str, columns: list[str], rows: list[list[str | float]], step: int) -> None: ...

    def log_image(self, key: str, image: npt.NDArray[np.uint8], step: int) -> None: ...


@dataclass(frozen=True)
class _Picture:
    key: str
    image_CHW: Tensor
    feature_D: Tensor
    captions: list[str]


class Retrievals(pl.Callback):
    """Draws a grid of images with their nearest captions, and logs it as a picture and a table, after each evaluation.

    For an objective whose ``validation_step`` returns the unit vectors of its batch's images, and whose ``encoded``
    holds each set's candidate captions when the evaluation ends.

    Args:
        images: Images of each set, the same in every run on any number of ranks: those whose keys have the least hash.
        top_k: Captions shown for an image, nearest first; the right one is green.
    """

    def __init__(self, images: int = 16, top_k: int = 3) -> None:
        self.images = images
        self.top_k = top_k
        self._pictures: dict[int, list[_Picture]] = {}

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forgets the pictures before."""
        self._pictures = {}

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keeps the images that may be among the chosen ones."""
        kept = {picture.key: picture for picture in self._pictures.get(dataloader_idx, [])}
        row_of = {key: row for row, key in enumerate(batch["key"]) if batch["weight"][row] > 0}
        chosen = self._choose([*kept, *row_of])
        for key in chosen:
            if key not in kept:
                row = row_of[key]
                image, feature = (column[row].cpu().clone() for column in (batch["image"], outputs))
                kept[key] = _Picture(key, image, feature, batch["captions"][row])
        self._pictures[dataloader_idx] = [kept[key] for key in chosen]

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draws and logs."""
        if trainer.sanity_checking:
            return
        encoded: dict[str, Ranked] = pl_module.encoded  # type: ignore[assignment]
        for index, (name, ranked) in enumerate(encoded.items()):
            pictures = self._of_all_ranks(self._pictures.get(index, []))
            if not trainer.is_global_zero:
                continue
            found = [_nearest(picture, ranked, self.top_k) for picture in pictures]
            columns, rows = _table(pictures, found, self.top_k)
            grid = draw_grid(pictures, found)
            for logger in trainer.loggers:
                if isinstance(logger, TakesPictures):
                    logger.log_table(f"retrievals/{name}/table", columns, rows, trainer.global_step)
                    logger.log_image(f"retrievals/{name}", grid, trainer.global_step)

    def _choose(self, keys: Iterable[str]) -> list[str]:
        return sorted(set(keys), key=lambda key: hashlib.sha256(key.encode()).digest())[: self.images]

    def _of_all_ranks(self, pictures: list[_Picture]) -> list[_Picture]:
        """The chosen pictures, in their order; ranks send those alone."""
        keys = distributed.all_gather_object([picture.key for picture in pictures])
        chosen = self._choose(chain.from_iterable(keys))
        sent = distributed.all_gather_object([picture for picture in pictures if picture.key in chosen])
        by_key = {picture.key: picture for picture in chain.from_iterable(sent)}
        return [by_key[key] for key in chosen]


def _nearest(picture: _Picture, ranked: Ranked, top_k: int) -> list[tuple[str, float]]:
    cosine, index = torch.topk(ranked.caption_CD.cpu() @ picture.feature_D, min(top_k, len(ranked.captions)))
    return [(ranked.captions[i], c) for c, i in zip(cosine.tolist(), index.tolist(), strict=True)]


def _table(
    pictures: list[_Picture], found: list[list[tuple[str, float]]], top_k: int
) -> tuple[list[str], list[list[str | float]]]:
    columns = ["caption", *(f"{column} {k + 1}" for k in range(top_k) for column in ("nearest", "cosine"))]
    rows = [[p.captions[0], *(cell for pair in near for cell in pair)] for p, near in zip(pictures, found, strict=True)]
    return columns, rows


def draw_grid(
    pictures: list[_Picture], found: list[list[tuple[str, float]]], columns: int = 4, side: int = 96, width: int = 330
) -> npt.NDArray[np.uint8]:
    """A grid of images, each beside its caption (grey) and the captions found for it (green where right).

    Args:
        pictures: The images.
        found: For each image, captions and cosines, nearest first.
        columns: Images in a row.
        side: Height and width of an image, in pixels.
        width: Width of an image with its captions, in pixels.

    Returns:
        ``(height, width, 3)``.
    """
    lines = 1 + max((len(near) for near in found), default=0)
    height = max(side, 20 * lines) + 16
    grid = Image.new("RGB", (columns * width, max(1, -(-len(pictures) // columns)) * height), _PAPER)
    draw, font = ImageDraw.Draw(grid), ImageFont.load_default(size=13)
    for position, (picture, near) in enumerate(zip(pictures, found, strict=True)):
        left, top = position % columns * width + 8, position // columns * height + 8
        array = picture.image_CHW.permute(1, 2, 0).numpy()
        grid.paste(Image.fromarray(array).resize((side, side), Image.Resampling.BICUBIC), (left, top))
        left += side + 8
        draw.text((left, top), _fit(draw, picture.captions[0], font, width - side - 24), fill=_GREY, font=font)
        for row, (caption, cosine) in enumerate(near, start=1):
            ink = _RIGHT if caption in picture.captions else _INK
            text = _fit(draw, f"{cosine:.2f}  {caption}", font, width - side - 24)
            draw.text((left, top + 20 * row), text, fill=ink, font=font)
    return np.asarray(grid)


def _fit(draw: ImageDraw.ImageDraw, text: str, font: Any, width: int) -> str:
    if draw.textlength(text, font=font) <= width:
        return text
    while text and draw.textlength(text + "…", font=font) > width:
        text = text[:-1]
    return text + "…"
