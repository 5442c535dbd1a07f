"""Data parallelism: every rank holds the whole model and its share of the batch."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from lightning.pytorch.strategies import DDPStrategy


def auto() -> Literal["auto"]:
    """Lightning's own choice: no strategy for one process, DDP for more."""
    return "auto"


def ddp(*, timeout_minutes: float = 30.0) -> DDPStrategy:
    """DDP with gradients that are views of the communication buckets, which spares a copy of all gradients.

    Args:
        timeout_minutes: How long a collective may wait for the slowest rank.
    """
    return DDPStrategy(gradient_as_bucket_view=True, timeout=timedelta(minutes=timeout_minutes))
