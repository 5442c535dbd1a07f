"""What a person should know of a run that nobody looks at."""

from __future__ import annotations

from typing import Literal, Protocol, runtime_checkable

import lightning.pytorch as pl

Level = Literal["INFO", "WARN", "ERROR"]


@runtime_checkable
class TakesAlerts(Protocol):
    """A logger that can reach people, by mail or chat."""

    def alert(self, title: str, text: str, level: Level) -> None: ...


def alert(trainer: pl.Trainer, title: str, text: str, level: Level) -> None:
    """Has every logger that can tell people; on rank 0.

    Args:
        trainer: The trainer.
        title: A few words, the same for all alerts of a kind: a logger may leave out those that follow too soon.
        text: A sentence.
        level: How bad it is.
    """
    if trainer.is_global_zero:
        for logger in trainer.loggers:
            if isinstance(logger, TakesAlerts):
                logger.alert(title, text, level)
