"""Muon for the matrices of the Transformer's blocks, AdamW for all else.

Jordan et al. 2024 (kellerjordan.github.io/posts/muon); scale and decay as in Liu et al. 2025, arXiv:2502.16982.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mmtrain.optim.adamw import AdamW

# Quintic whose iteration drives singular values to about 1 fastest (Jordan et al. 2024).
_QUINTIC = (3.4445, -4.7750, 2.0315)


class Muon:
    """Recipe: momentum made orthogonal by Newton-Schulz for hidden matrices, AdamW for the rest.

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
        muon = OrthogonalMomentum(hidden, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        rest = self.rest.over(p for p in model.parameters() if p.requires_grad and id(p) not in chosen)
        return Combined([muon, rest])


def hidden_matrices(model: nn.Module) -> list[Tensor]:
    """The trainable weights of the linear layers in repeated blocks (``nn.ModuleList``), in the model's order.

    Embeddings, convolutions and what leads out of the Transformer, a projection or a head, are not among them.
    """
    stacks = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    linear = [module for stack in stacks for module in stack.modules() if isinstance(module, nn.Linear)]
    return [weight for weight in {module.weight: None for module in linear} if weight.requires_grad]


class OrthogonalMomentum(Optimizer):
    """Muon's update of matrices: ``w -= lr 0.2 sqrt(max(rows, columns)) orthogonal(momentum)``.

    The scale gives updates the root mean square of AdamW's, so that one learning rate fits both (arXiv:2502.16982,
    equation 4). Same as ``torch.optim.Muon`` with ``adjust_lr_fn="match_rms_adamw"``, but the iteration runs in fp32 on
    a CPU, where bf16 may be emulated and many times slower; and matrices of one shape are iterated in one batch.

    Args:
        parameters: Matrices.
        lr: Learning rate.
        momentum: Decay of the running mean of the gradient (Nesterov).
        weight_decay: Decoupled decay.
    """

    def __init__(
        self, parameters: Iterable[Tensor], *, lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Updates every matrix that has a gradient."""
        assert closure is None, "Combined evaluates the closure"
        for group in self.param_groups:
            by_shape: dict[tuple[int, ...], list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(tuple(parameter.shape), []).append(parameter)
            for (rows, columns), matrices in by_shape.items():
                directions = torch.stack([self._direction(matrix, group["momentum"]) for matrix in matrices])
                scale = 0.2 * math.sqrt(max(rows, columns))
                for matrix, update in zip(matrices, orthogonal(directions), strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"])
                    matrix.add_(update.to(matrix.dtype), alpha=-group["lr"] * scale)

    def _direction(self, matrix: Tensor, momentum: float) -> Tensor:
        assert matrix.grad is not None
        mean: Tensor = self.state[matrix].setdefault("momentum_buffer", torch.zeros_like(matrix))
        mean.lerp_(matrix.grad, 1 - momentum)
        return matrix.grad.lerp(mean, momentum)


def orthogonal(matrices_NRC: Tensor, steps: int = 5, eps: float = 1e-7) -> Tensor:
    """Replaces each matrix's singular values by about 1 (0.7 to 1.2), by Newton-Schulz.

    Args:
        matrices_NRC: N matrices of R rows and C columns.
        steps: Iterations.
        eps: Smallest norm that is divided by.

    Returns:
        The same shape, in bf16 on a GPU and fp32 on a CPU.
    """
    tall = matrices_NRC.shape[1] > matrices_NRC.shape[2]
    x_NRC = matrices_NRC.mT if tall else matrices_NRC
    x_NRC = x_NRC.bfloat16() if x_NRC.is_cuda else x_NRC.float()
    x_NRC = x_NRC / x_NRC.norm(dim=(1, 2), keepdim=True).clamp(min=eps)
    a, b, c = _QUINTIC
    for _ in range(steps):
        gram_NRR = x_NRC @ x_NRC.mT
        x_NRC = a * x_NRC + (b * gram_NRR + c * gram_NRR @ gram_NRR) @ x_NRC
    return x_NRC.mT if tall else x_NRC


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
