"""Muon for the matrices of the Transformer's blocks, AdamW for all else (Jordan et al. 2024; Liu et al., arXiv:2502.16982)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from mmtrain.nn.transformer import Block
from mmtrain.optim.adamw import AdamW


class Muon:
    """Recipe: momentum made orthogonal by Newton-Schulz for hidden matrices, AdamW for the rest.

    Updates are scaled to the root mean square of AdamW's (``0.2 sqrt(max(rows, columns))``, arXiv:2502.16982, eq. 4),
    so that learning rates of the two are of the same order.

    Args:
        lr: Peak learning rate of the hidden matrices.
        rest: Optimizer of embeddings, convolutions, projections, gains, biases and the temperature. Its schedule
            serves both.
        momentum: Decay of the running mean of the gradient (Nesterov).
        weight_decay: Decoupled decay of the hidden matrices.
    """

    def __init__(self, *, lr: float, rest: AdamW, momentum: float = 0.95, weight_decay: float = 0.0) -> None:
        self.lr = lr
        self.rest = rest
        self.schedule = rest.schedule
        self.momentum = momentum
        self.weight_decay = weight_decay

    def build(self, model: nn.Module) -> Optimizer:
        """The optimizer of the trainable parameters of ``model``."""
        hidden = hidden_matrices(model)
        chosen = {id(p) for p in hidden}
        muon = torch.optim.Muon(
            hidden,
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            adjust_lr_fn="match_rms_adamw",
        )
        rest = self.rest.over(p for p in model.parameters() if p.requires_grad and id(p) not in chosen)
        return Combined([muon, rest])


def hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """The trainable weights of the linear layers in the Transformer's blocks, in the model's order."""
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    linear = [module for block in blocks for module in block.modules() if isinstance(module, nn.Linear)]
    return [module.weight for module in linear if module.weight.requires_grad]


class Combined(Optimizer):
    """Several optimizers that step, are scheduled, saved and restored as one: they share its groups and its state."""

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        super().__init__([group for optimizer in optimizers for group in optimizer.param_groups], {})
        self.optimizers = list(optimizers)
        self._share()

    def _share(self) -> None:
        groups = iter(self.param_groups)
        for optimizer in self.optimizers:
            optimizer.param_groups = [next(groups) for _ in optimizer.param_groups]
            optimizer.state = self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores groups and state of all."""
        super().load_state_dict(state_dict)
        self._share()

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Steps each optimizer once, after ``closure`` has made the gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for optimizer in self.optimizers:
            optimizer.step()
        return loss
