"""Cross-entropy over a large vocabulary, without the logits of all tokens at once.

Shape suffixes: N tokens, C tokens of a chunk, R those of it that fit a cache, D model width, V vocabulary,
W those of its words whose gradients fit a cache.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mmtrain.nn.linear import linear

IGNORED = -100
"""Target of a token that does not count."""

IN_CACHE = 2**20
"""Numbers that a CPU works on at once, so that only the first look at them waits for memory."""


class CrossEntropy(nn.Module):
    """Sums of the losses of next tokens, from what the head of a language model is given.

    A chunk's gradient is taken as soon as its loss is known, and its logits are dropped (Hsu et al. 2024,
    arXiv:2410.10989, section 3.2): nothing is computed twice, and memory is that of one chunk and of the two gradients.
    Logits are made in the precision of autocast. Their softmax, the losses and the sum of the weight's gradient over
    chunks are in fp32, or in fp64 where the inputs are.

    Args:
        z_loss: Factor of the squared logarithm of the softmax's denominator, which keeps logits near 0; 1e-4 in PaLM
            (Chowdhery et al. 2022, arXiv:2204.02311, section 5).
        logits_at_once: Bound of the logits in a chunk. None takes what was fastest: 2^25 on a CPU, 2^27
            elsewhere: in smaller chunks, adding up the weight's gradient costs more.
    """

    def __init__(self, z_loss: float = 0.0, logits_at_once: int | None = None) -> None:
        super().__init__()
        self.logits_at_once = logits_at_once
        self.gradient = LogitGradient(z_loss)

    def forward(self, hidden_ND: Tensor, weight_VD: Tensor, target_N: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, z-loss included, and the negative log likelihood in nats, without gradient; both are sums.

        Args:
            hidden_ND: Input of the head.
            weight_VD: Weight of the head.
            target_N: Ids of the right tokens; `IGNORED` for those that do not count.
        """
        device = hidden_ND.device.type
        logits_at_once = self.logits_at_once or (2**25 if device == "cpu" else 2**27)
        size = max(1, logits_at_once // len(weight_VD))
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight_VD.dtype
        graded = torch.is_grad_enabled()
        with torch.autocast(device, enabled=False):
            sums = _Sums.apply(hidden_ND, weight_VD, target_N, self.gradient, size, dtype, graded)  # type: ignore[no-untyped-call]
        loss, nll = sums
        return loss, nll


class LogitGradient(nn.Module):
    """What is done with each logit: a module of its own, so that it can be compiled into few passes over memory.

    Args:
        z_loss: See `CrossEntropy`.
    """

    def __init__(self, z_loss: float) -> None:
        super().__init__()
        self.z_loss = z_loss

    def forward(self, logits_CV: Tensor, target_C: Tensor) -> Tensor:
        """Puts the gradient, ``softmax (1 + 2 z logsumexp) - onehot``, in the place of the logits.

        Returns:
            The sums of the losses and of the negative log likelihoods, ``(2,)``.
        """
        wide_CV = logits_CV.to(torch.promote_types(logits_CV.dtype, torch.float32))
        counts_C1 = (target_C != IGNORED).to(wide_CV.dtype)[:, None]
        target_C1 = target_C.clamp(min=0)[:, None]
        right_C1 = wide_CV.gather(1, target_C1)
        highest_C1 = wide_CV.amax(dim=1, keepdim=True)
        sum_C1 = wide_CV.sub_(highest_C1).exp_().sum(dim=1, keepdim=True)
        logsumexp_C1 = highest_C1 + sum_C1.log()
        nll = ((logsumexp_C1 - right_C1) * counts_C1).sum()
        loss = nll + self.z_loss * (logsumexp_C1.square() * counts_C1).sum()
        wide_CV.mul_((1 + 2 * self.z_loss * logsumexp_C1) * counts_C1 / sum_C1)
        wide_CV.scatter_add_(1, target_C1, -counts_C1)
        logits_CV.copy_(wide_CV)  # nothing is copied where they are the same
        return torch.stack([loss, nll])


class _Sums(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        target_N: Tensor,
        gradient: LogitGradient,
        size: int,
        dtype: torch.dtype,
        graded: bool,
    ) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(dtype, torch.float32)
        low_VD = weight_VD.to(dtype)
        grad_hidden_ND = torch.empty_like(hidden_ND) if graded and ctx.needs_input_grad[0] else None
        grad_weight_VD = torch.empty_like(weight_VD, dtype=wide) if graded and ctx.needs_input_grad[1] else None
        sums = hidden_ND.new_zeros(2, dtype=wide)
        for start in range(0, len(hidden_ND), size):
            chunk = slice(start, start + size)
            hidden_CD = hidden_ND[chunk].to(dtype)
            grad_CV = linear(hidden_CD, low_VD)
            rows, columns = _parts(weight_VD) if grad_CV.device.type == "cpu" else (size, len(weight_VD))
            for logits_RV, target_R in zip(grad_CV.split(rows), target_N[chunk].split(rows), strict=True):
                sums += gradient(logits_RV, target_R)
            if grad_hidden_ND is not None:
                grad_hidden_ND[chunk] = linear(grad_CV, low_VD.T)
            if grad_weight_VD is None:
                continue
            for sum_WD, grad_CW in zip(grad_weight_VD.split(columns), grad_CV.split(columns, dim=1), strict=True):
                of_chunk_WD = linear(grad_CW.T, hidden_CD.T)
                sum_WD.copy_(of_chunk_WD) if start == 0 else sum_WD.add_(of_chunk_WD)
        ctx.gradients = grad_hidden_ND, grad_weight_VD
        loss, nll = sums.unbind()
        ctx.mark_non_differentiable(nll)
        return loss, nll

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        scaled = (None if gradient is None else gradient * grads[0] for gradient in ctx.gradients)
        return (*scaled, None, None, None, None, None)


def _parts(weight_VD: Tensor) -> tuple[int, int]:
    """Rows of logits, and rows of the weight's gradient, that fit a CPU's cache."""
    vocab_size, width = weight_VD.shape
    return max(1, IN_CACHE // vocab_size), max(1, IN_CACHE // width)
