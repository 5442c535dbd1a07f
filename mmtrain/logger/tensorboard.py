"""TensorBoard event files under ``tensorboard/`` in the run directory."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PillowImage
from torch.utils.tensorboard import SummaryWriter

from mmtrain import distributed
from mmtrain.logger.base import Cell, Image, RunLogger


class TensorBoardLogger(RunLogger):
    """Writes scalars, pictures and tables (as Markdown) for TensorBoard.

    Args:
        directory: The run directory.
        config: The run's config, shown as text.
        resume_step: The step that the run goes on from: TensorBoard then hides what older files say of later steps.
    """

    def __init__(self, directory: Path, config: Mapping[str, Any], resume_step: int = 0) -> None:
        super().__init__()
        self.directory = directory
        self.config = dict(config)
        self.resume_step = resume_step
        self._writer: SummaryWriter | None = None

    @property
    def name(self) -> str:
        """The run's name."""
        return self.directory.name

    @property
    def version(self) -> str:
        """Empty: a run directory holds one run."""
        return ""

    @property
    def experiment(self) -> SummaryWriter | None:
        """The writer, opened at the first use; None on ranks other than 0."""
        if distributed.rank() != 0:
            return None
        if self._writer is None:
            purge_step = self.resume_step + 1 if self.resume_step else None
            self._writer = SummaryWriter(str(self.directory / "tensorboard"), purge_step=purge_step)
            self._writer.add_text("config", "\n".join(f"    {key}: {value}" for key, value in self.config.items()))
        return self._writer

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Adds scalars."""
        if (writer := self.experiment) is not None:
            for key, value in metrics.items():
                writer.add_scalar(key, value, step)

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Does nothing: the whole config was written when the file was opened."""

    def log_table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]], step: int) -> None:
        """Adds a table, as Markdown."""
        if (writer := self.experiment) is not None:
            lines = [columns, ["---"] * len(columns), *rows]
            writer.add_text(key, "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines), step)

    def log_image(self, key: str, image: Image, step: int) -> None:
        """Adds a picture."""
        if (writer := self.experiment) is not None:
            pixels = np.asarray(PillowImage.open(image).convert("RGB")) if isinstance(image, Path) else image
            writer.add_image(key, pixels, step, dataformats="HWC")

    def log_histogram(self, key: str, counts: Sequence[int], edges: Sequence[float], step: int) -> None:
        """Adds a histogram. Sums, for which TensorBoard asks, are those of the bins' centres."""
        if (writer := self.experiment) is not None:
            centres, weights = (np.asarray(edges)[1:] + np.asarray(edges)[:-1]) / 2, np.asarray(counts)
            writer.add_histogram_raw(
                key,
                min=edges[0],
                max=edges[-1],
                num=int(weights.sum()),
                sum=float(weights @ centres),
                sum_squares=float(weights @ centres**2),
                bucket_limits=list(edges[1:]),
                bucket_counts=list(counts),
                global_step=step,
            )

    def finalize(self, status: str) -> None:
        """Closes the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
