"""Muon for the matrices of the Transformer's blocks, AdamW for all else.

Jordan et al. 2024 (kellerjordan.github.io/posts/muon); scale and decay as in Liu et al. 2025, arXiv:2502.16982.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mmtrain import sharded
from mmtrain.errors import ConfigError
from mmtrain.nn.linear import linear
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
        split_qkv: Whether the projections to queries, keys and values, which are one matrix for speed, are three to
            Muon, as in nanochat and in arXiv:2502.16982. Made orthogonal as one, the three share the directions of the
            input: what one of them uses fully, the others get no part of.

    Raises:
        ConfigError: ``rest`` has a ``layer_decay``, which the hidden matrices would not follow.
    """

    def __init__(
        self,
        *,
        lr: float,
        rest: AdamW,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        split_qkv: bool = False,
    ) -> None:
        if rest.layer_decay is not None:
            raise ConfigError(
                f"layer_decay={rest.layer_decay} under Muon would spare the blocks' matrices",
                where="optim.rest",
                mend="set it to null, or fine-tune with optim=adamw",
            )
        self.lr = lr
        self.rest = rest
        self.schedule = rest.schedule
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.split_qkv = split_qkv

    def build(self, model: nn.Module) -> Optimizer:
        """The optimizer of the trainable parameters of ``model``."""
        hidden = hidden_matrices(model)
        chosen = {id(p) for p in hidden}
        muon = OrthogonalMomentum(
            hidden,
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            rows=fused_rows(model) if self.split_qkv else {},
        )
        rest = self.rest.over(p for p in model.parameters() if p.requires_grad and id(p) not in chosen)
        return Combined([muon, rest])


def hidden_matrices(model: nn.Module) -> list[Tensor]:
    """The trainable weights of the linear layers in repeated blocks (``nn.ModuleList``), in the model's order.

    Embeddings, convolutions and what leads out of the Transformer, a projection or a head, are not among them.
    """
    stacks = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    linear = [module for stack in stacks for module in stack.modules() if isinstance(module, nn.Linear)]
    return [weight for weight in {module.weight: None for module in linear} if weight.requires_grad]


@runtime_checkable
class FusesProjections(Protocol):
    """An attention module whose linear layer ``qkv`` is several matrices, one above the other."""

    qkv_sizes: tuple[int, ...]
    """Rows of each of the matrices."""


def fused_rows(model: nn.Module) -> dict[Tensor, tuple[int, ...]]:
    """The weights that are several matrices, and the rows of each of these."""
    fused = (module for module in model.modules() if isinstance(module, FusesProjections))
    return {module.get_parameter("qkv.weight"): module.qkv_sizes for module in fused}


class OrthogonalMomentum(Optimizer):
    """Muon's update of matrices: ``w -= lr 0.2 sqrt(max(rows, columns)) orthogonal(momentum)``.

    The scale gives updates the root mean square of AdamW's, so that one learning rate fits both (arXiv:2502.16982,
    equation 4). Same as ``torch.optim.Muon`` with ``adjust_lr_fn="match_rms_adamw"``, but the iteration runs in fp32 on
    a CPU, where bf16 may be emulated and many times slower; and matrices of one shape are iterated together.

    Args:
        parameters: Matrices.
        lr: Learning rate.
        momentum: Decay of the running mean of the gradient (Nesterov).
        weight_decay: Decoupled decay.
        rows: Parameters that are several matrices, one above the other, and the rows of each of these.

    Attributes:
        found_inf: As of PyTorch's fused optimizers: where this scalar is 1, a step changes nothing.
    """

    found_inf: Tensor | None = None

    def __init__(
        self,
        parameters: Iterable[Tensor],
        *,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        rows: Mapping[Tensor, tuple[int, ...]] | None = None,
    ) -> None:
        self.rows = dict(rows or {})
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Updates every matrix that has a gradient.

        Of a sharded one, the momentum is kept and the update made in shards; in between, each rank has the whole
        matrix for as long as it makes those of its shape orthogonal, as it would without sharding.
        """
        assert closure is None, "Combined evaluates the closure"
        for group in self.param_groups:
            by_shape: dict[tuple[int, int], list[tuple[Tensor, int, Tensor]]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    rows = self.rows.get(parameter, (len(parameter),))
                    direction = sharded.whole(self._direction(parameter, group["momentum"]), parameter)
                    starts = accumulate(rows, initial=0)
                    for start, matrix in zip(starts, direction.split(rows), strict=False):
                        by_shape.setdefault((len(matrix), matrix.shape[1]), []).append((parameter, start, matrix))
            for shape, group_of_shape in by_shape.items():
                parameters, starts_of, matrices = zip(*group_of_shape, strict=True)
                updates = orthogonal(torch.stack(matrices))
                for parameter, start, update in zip(parameters, starts_of, updates, strict=True):
                    self._update(parameter, start, update, group, 0.2 * math.sqrt(max(shape)))

    def _direction(self, matrix: Tensor, momentum: float) -> Tensor:
        """This rank's part of Nesterov's direction."""
        assert matrix.grad is not None
        mean = sharded.own_part(self.state[matrix].setdefault("momentum_buffer", torch.zeros_like(matrix)))
        grad = sharded.own_part(matrix.grad)
        self._assign(mean, mean.lerp(grad, 1 - momentum))
        return grad.lerp(mean, momentum)

    def _update(self, parameter: Tensor, start: int, update_RC: Tensor, group: dict[str, Any], scale: float) -> None:
        """Moves those of a parameter's rows, from ``start`` on, that this rank has."""
        rows, columns = sharded.own_region(parameter)
        first, end = max(rows.start, start), min(rows.stop, start + len(update_RC))
        if first < end:
            own = sharded.own_part(parameter)[first - rows.start : end - rows.start]
            new = own * (1 - group["lr"] * group["weight_decay"])
            new.add_(update_RC[first - start : end - start, columns].to(own.dtype), alpha=-group["lr"] * scale)
            self._assign(own, new)

    def _assign(self, target: Tensor, new: Tensor) -> None:
        if self.found_inf is None:
            target.copy_(new)
        else:  # not a product with 0: what is not finite would stay so
            torch.where(self.found_inf > 0, target, new, out=target)


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
        gram_NRR = _times_transposed(x_NRC, x_NRC)
        # A Gram matrix is its own transpose.
        x_NRC = a * x_NRC + _times_transposed(b * gram_NRR + c * _times_transposed(gram_NRR, gram_NRR), x_NRC.mT)
    return x_NRC.mT if tall else x_NRC


def _times_transposed(a_NRK: Tensor, b_NCK: Tensor) -> Tensor:
    """``a @ b.mT``; on a CPU matrix by matrix, for which `linear` has the faster library."""
    if a_NRK.device.type != "cpu":
        return a_NRK @ b_NCK.mT
    return torch.stack([linear(a_RK, b_CK) for a_RK, b_CK in zip(a_NRK, b_NCK, strict=True)])


class Combined(Optimizer):
    """Several optimizers that step, are scheduled, saved and restored as one: they share its groups and its state.

    Attributes:
        found_inf: As of PyTorch's fused optimizers: where this scalar is 1, a step changes nothing.
    """

    found_inf: Tensor | None = None

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
            if self.found_inf is not None:
                optimizer.found_inf = self.found_inf  # type: ignore[attr-defined]
            optimizer.step()
        return loss
