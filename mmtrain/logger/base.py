"""What every logger of a run can do beyond Lightning's ``log_metrics``."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from lightning.pytorch.loggers.logger import Logger

Image = Path | npt.NDArray[np.uint8]
"""A picture: a file, or an array (height, width, 3)."""
Cell = str | int | float | bool | None


class RunLogger(Logger):
    """A logger that also takes tables and pictures. Its methods are called on rank 0, with the completed steps."""

    @abstractmethod
    def log_table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]], step: int) -> None:
        """Records a table."""

    @abstractmethod
    def log_image(self, key: str, image: Image, step: int) -> None:
        """Records a picture."""
