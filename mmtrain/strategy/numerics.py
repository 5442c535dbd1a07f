"""Numerics that strategies have in common: which precisions they know, and what forward passes run under."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from mmtrain.errors import ConfigError


def require_known(precision: str, known: Sequence[str], library: str) -> None:
    """Refuses a precision that would silently be another one.

    Raises:
        ConfigError: It is not among ``known``.
    """
    if precision not in known:
        raise ConfigError(
            f"precision {precision} is not to be had with {library}",
            where="trainer.precision",
            mend=f"set one of {', '.join(known)}",
        )


def autocast(precision: str) -> AbstractContextManager[Any]:
    """What a forward pass runs under: PyTorch's autocast to bf16 for ``bf16-mixed``, else nothing.

    Casts of weights are not kept: they would keep gathered weights, and the graphs of micro-batches.
    """
    if precision != "bf16-mixed":
        return nullcontext()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.autocast(device, dtype=torch.bfloat16, cache_enabled=False)
