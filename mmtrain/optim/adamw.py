"""AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) with the parameter groups of CLIP."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import nn
from torch.optim import Optimizer

from mmtrain.optim.groups import decay_groups, lr_by_depth
from mmtrain.optim.schedule import Schedule


class AdamW:
    """Recipe of an AdamW optimizer: weight decay on matrices only, not on gains, biases and the temperature.

    Args:
        lr: Peak learning rate.
        schedule: Learning rate over the run, as a share of the peak.
        betas: Decay of the running means of the gradient and of its square.
        eps: Added to the root of the mean square.
        weight_decay: Decoupled decay of every parameter of two or more dimensions.
        layer_decay: For fine-tuning: share of the learning rate that a block has of the one above it, see
            `lr_by_depth`. None gives all parameters the same rate.
    """

    def __init__(
        self,
        *,
        lr: float,
        schedule: Schedule,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        layer_decay: float | None = None,
    ) -> None:
        self.lr = lr
        self.schedule = schedule
        self.betas = betas
        self.eps = eps
        self.weight_decay = weight_decay
        self.layer_decay = layer_decay

    def build(self, model: nn.Module) -> Optimizer:
        """The optimizer of the trainable parameters of ``model``; one fused kernel a step where the device has one."""
        shares = lr_by_depth(model, self.layer_decay) if self.layer_decay is not None else {}
        return self.over((p for p in model.parameters() if p.requires_grad), shares)

    def over(
        self, parameters: Iterable[nn.Parameter], lr_shares: Mapping[nn.Parameter, float] | None = None
    ) -> torch.optim.AdamW:
        """The optimizer of these parameters; some may have a share of the learning rate."""
        groups = decay_groups(parameters, self.weight_decay, lr=self.lr, lr_shares=lr_shares or {})
        fused = all(p.device.type in ("cpu", "cuda") for group in groups for p in group["params"])
        optimizer = torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, eps=self.eps, fused=fused)
        # Fused kernels can undo a gradient scaler's factor themselves, and Lightning takes that as a ban on clipping
        # gradients under mixed precision. The scaler undoes it before the step, as for any other optimizer.
        optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
        return optimizer
