"""Linear maps, on a CPU by the faster of the two libraries that PyTorch brings.

PyTorch multiplies matrices of fp32 on a CPU with MKL, which leaves AVX-512 alone on processors that are not Intel's.
oneDNN is in the same wheels and takes AVX-512 wherever it is: on an EPYC it is twice as fast (``benchmarks/LOG.md``).
On Intel's, where both take it, the two were not compared.

Shape suffixes: N rows, D width that goes in, M width that comes out.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula

_IS_FASTER = torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.backends.mkldnn.is_available()
_WORTH_A_CALL = 2**22
"""Multiplications from which on oneDNN makes up for the longer way to it."""


class Linear(nn.Linear):
    """``nn.Linear`` by `linear`: the same parameters, and the same map but for rounding."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


def linear(x: Tensor, weight_MD: Tensor, bias_M: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias``, by oneDNN where that is faster: fp32 and AVX-512, not autocast, and not tiny.

    ``ATEN_CPU_CAPABILITY=avx2`` in the environment leaves all to `F.linear`. Gradients are as there, of any order, and
    with functorch.

    Args:
        x: ``(..., D)``.
        weight_MD: Weight; of any strides.
        bias_M: Bias.

    Returns:
        ``(..., M)``.
    """
    if not _by_onednn(x, weight_MD):
        return F.linear(x, weight_MD, bias_M)
    # Without gradient the function around the operator would only cost time: as much as a product of 64 x 256 x 256.
    by_onednn = _Linear.apply if torch.is_grad_enabled() else torch.ops.mmtrain.linear
    result: Tensor = by_onednn(x, weight_MD, bias_M)
    return result


def _by_onednn(x: Tensor, weight_MD: Tensor) -> bool:
    return (
        _IS_FASTER
        and x.device.type == "cpu"
        and x.ndim > 1
        and x.dtype == weight_MD.dtype == torch.float32
        and x.numel() * len(weight_MD) >= _WORTH_A_CALL
        and not torch.is_autocast_enabled("cpu")
    )


# An operator of its own, since Inductor takes oneDNN's for one that only meets constant weights.
torch.library.define("mmtrain::linear", "(Tensor x, Tensor weight, Tensor? bias) -> Tensor")


@torch.library.impl("mmtrain::linear", "CPU")
def _onednn(x: Tensor, weight_MD: Tensor, bias_M: Tensor | None) -> Tensor:
    result: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, weight_MD, bias_M, "none", [], "")
    return result


@torch.library.register_fake("mmtrain::linear")  # type: ignore[untyped-decorator]
def _(x: Tensor, weight_MD: Tensor, bias_M: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], len(weight_MD))


@register_flop_formula(torch.ops.mmtrain.linear)
def _flops(x: torch.Size, weight_MD: torch.Size, *_: Any, **__: Any) -> int:
    return 2 * x.numel() * weight_MD[0]


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight_MD: Tensor, bias_M: Tensor | None) -> Tensor:
        result: Tensor = torch.ops.mmtrain.linear.default(x, weight_MD, bias_M)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        x, weight_MD, _ = inputs
        of_x, of_weight, _ = ctx.needs_input_grad
        ctx.save_for_backward(x if of_weight else None, weight_MD if of_x else None)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight_MD = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        grad_NM = grad.flatten(0, -2)
        return (
            linear(grad, weight_MD.T) if of_x else None,
            linear(grad_NM.T, x.flatten(0, -2).T) if of_weight else None,
            grad_NM.sum(0) if of_bias else None,
        )
