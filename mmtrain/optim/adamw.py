"""AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) with the parameter groups of CLIP."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from mmtrain.optim.schedule import Schedule


class AdamW:
    """Recipe of an AdamW optimizer: weight decay on matrices only, not on gains, biases and the temperature.

    Args:
        lr: Peak learning rate.
        schedule: Learning rate over the run, as a share of the peak.
        betas: Decay of the running means of the gradient and of its square.
        eps: Added to the root of the mean square.
        weight_decay: Decoupled decay of every parameter of two or more dimensions.
    """

    def __init__(
        self,
        *,
        lr: float,
        schedule: Schedule,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        self.lr = lr
        self.schedule = schedule
        self.betas = betas
        self.eps = eps
        self.weight_decay = weight_decay

    def build(self, model: nn.Module) -> Optimizer:
        """The optimizer of the trainable parameters of ``model``; one fused kernel a step where the device has one."""
        return self.over(p for p in model.parameters() if p.requires_grad)

    def over(self, parameters: Iterable[nn.Parameter]) -> torch.optim.AdamW:
        """The optimizer of these parameters."""
        groups = decay_groups(parameters, self.weight_decay)
        fused = all(p.device.type in ("cpu", "cuda") for group in groups for p in group["params"])
        optimizer = torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, eps=self.eps, fused=fused)
        # Fused kernels can undo a gradient scaler's factor themselves, and Lightning takes that as a ban on clipping
        # gradients under mixed precision. The scaler undoes it before the step, as for any other optimizer.
        optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
        return optimizer


def decay_groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: matrices, with decay; vectors and scalars (gains, biases, temperature), without."""
    every = list(parameters)
    return [
        {"params": [p for p in every if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in every if p.ndim < 2], "weight_decay": 0.0},
    ]
