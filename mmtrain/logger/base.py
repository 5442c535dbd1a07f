"""What loggers of a run can do beyond Lightning's ``log_metrics``."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

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


@dataclass(frozen=True)
class StoredCheckpoint:
    """A checkpoint, which stays where it is.

    Attributes:
        path: A file, or a folder of shards.
        step: Optimizer steps completed.
        bytes: Size of the content.
        xxh3: 128-bit xxh3, as in the checkpoint's own record.
        parts: 128-bit xxh3 of each file of a folder, by its name; none for a file.
        weights_sha256: Of the weights, as in the manifest; None where it is not known.
        metrics: Evaluation metrics of this step.
        is_best: Whether it is the best of the run.
    """

    path: Path
    step: int
    bytes: int
    xxh3: str
    parts: Mapping[str, str]
    weights_sha256: str | None
    metrics: Mapping[str, float]
    is_best: bool


@dataclass(frozen=True)
class Evidence:
    """What proves a run, once it has ended.

    Attributes:
        texts: Small files without secrets, by name.
        checkpoints: Those that will stay, the newest last.
    """

    texts: Mapping[str, str]
    checkpoints: Sequence[StoredCheckpoint]


@runtime_checkable
class KeepsEvidence(Protocol):
    """A logger that takes evidence, for which it stays open when the trainer is done with it."""

    def stay_open(self) -> None:
        """Has `finalize` not end it; `close` will."""

    def close(self, evidence: Evidence) -> None:
        """Takes the evidence, and ends."""
