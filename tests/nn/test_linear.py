"""Linear maps by oneDNN: those of `F.linear` in values and gradients, and taken only where they pay."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from mmtrain.nn.linear import Linear, linear

D, M = 192, 320

needs_avx512 = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() != "AVX512", reason="without AVX-512 all is left to F.linear"
)


def inputs(*rows: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x, weight, bias = (torch.randn(*shape, generator=generator).to(dtype) for shape in ((*rows, D), (M, D), (M,)))
    return x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()


def is_onednn(result: Tensor) -> bool:
    return "_Linear" in type(result.grad_fn).__name__


def distance(a: Tensor, b: Tensor) -> float:
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


@needs_avx512
@pytest.mark.parametrize("rows", [(257,), (4, 100), (3, 5, 32)])
def test_values_and_gradients_are_those_of_double_precision(rows: tuple[int, ...]) -> None:
    leaves = inputs(*rows)
    wide = tuple(leaf.detach().double().requires_grad_() for leaf in leaves)
    result, right = linear(*leaves), F.linear(*wide)
    assert is_onednn(result) and result.shape == right.shape
    assert distance(result, right) < 1e-6
    grad = torch.randn(result.shape, generator=torch.Generator().manual_seed(4))
    for ours, theirs in zip(
        torch.autograd.grad(result, leaves, grad), torch.autograd.grad(right, wide, grad.double()), strict=True
    ):
        assert ours.is_contiguous()
        assert distance(ours, theirs) < 1e-6


@needs_avx512
@pytest.mark.parametrize(
    "lie",
    [
        lambda x: x.T.contiguous().T,
        lambda x: torch.stack([x, x], dim=-1)[..., 0],
        lambda x: x[:1].expand_as(x),
        lambda x: torch.cat([x, x])[len(x) :],
    ],
    ids=["transposed", "apart", "one row again and again", "part"],
)
def test_numbers_are_read_as_they_lie(lie: Callable[[Tensor], Tensor]) -> None:
    x, weight, _ = (leaf.detach() for leaf in inputs(257))
    for left, right in ((lie(x), weight), (x, lie(weight)), (lie(x), lie(weight))):
        assert distance(linear(left, right), left.double() @ right.double().T) < 1e-6


@needs_avx512
def test_equal_inputs_give_equal_bits_wherever_they_lie() -> None:
    x, weight, bias = (leaf.detach() for leaf in inputs(257))
    moved = torch.cat([torch.zeros(7), x.flatten()])[7:].view_as(x)
    assert moved.data_ptr() % 64 != x.data_ptr() % 64
    assert torch.equal(linear(moved, weight, bias), linear(x, weight, bias))


@needs_avx512
@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_what_is_frozen_gets_no_gradient_and_keeps_nothing(frozen: int) -> None:
    leaves = inputs(257)
    leaves[frozen].requires_grad_(requires_grad=False)
    result = linear(*leaves)
    kept = [tensor is not None for tensor in result.grad_fn.saved_tensors]  # type: ignore[union-attr]
    assert kept == [frozen != 1, frozen != 0]
    result.sum().backward()
    assert [leaf.grad is not None for leaf in leaves] == [leaf.requires_grad for leaf in leaves]


@needs_avx512
def test_gradients_of_gradients_are_those_of_torch() -> None:
    def curvature(function: object) -> tuple[Tensor, ...]:
        x, weight, bias = inputs(257)
        loss = function(x, weight, bias).tanh().square().sum()  # type: ignore[operator]
        (slope,) = torch.autograd.grad(loss, x, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), (x, weight, bias))

    for ours, theirs in zip(curvature(linear), curvature(F.linear), strict=True):
        assert distance(ours, theirs) < 1e-5


@needs_avx512
def test_functorch_differentiates_it() -> None:
    x, weight, bias = (leaf.detach() for leaf in inputs(257))
    gradient = torch.func.grad(lambda w: linear(x, w, bias).square().sum())(weight)
    right = torch.func.grad(lambda w: F.linear(x, w, bias).square().sum())(weight)
    assert distance(gradient, right) < 1e-6


@needs_avx512
def test_a_checkpointed_layer_has_the_same_bits() -> None:
    def gradients(*, again: bool) -> tuple[Tensor, ...]:
        x, weight, bias = inputs(257)
        result = checkpoint(linear, x, weight, bias, use_reentrant=False) if again else linear(x, weight, bias)
        assert isinstance(result, Tensor)
        return torch.autograd.grad(result.square().sum(), (x, weight, bias))

    assert all(torch.equal(a, b) for a, b in zip(gradients(again=True), gradients(again=False), strict=True))


@pytest.mark.slow
def test_it_compiles_without_a_break() -> None:
    layer = Linear(D, M)
    x, _, _ = inputs(257)
    compiled = torch.compile(layer, fullgraph=True)
    assert distance(compiled(x), layer(x)) < 1e-6
    ours, right = (torch.autograd.grad(f(x).square().sum(), layer.weight)[0] for f in (compiled, layer))
    assert distance(ours, right) < 1e-6


def test_its_operations_are_counted() -> None:
    x, weight, bias = inputs(257)
    with FlopCounterMode(display=False) as counter:
        linear(x, weight, bias).sum().backward()
    assert counter.get_total_flops() == 3 * 2 * 257 * D * M


def test_the_rest_is_left_to_torch_to_the_bit() -> None:
    few, many = inputs(2), inputs(257)
    double = inputs(257, dtype=torch.float64)
    row = (torch.ones(2048), torch.ones(2048, 2048, requires_grad=True), torch.ones(2048))
    for leaves in (few, double, row):
        result = linear(*leaves)
        assert not is_onednn(result)
        assert torch.equal(result, F.linear(*leaves))
    with torch.autocast("cpu", torch.bfloat16):
        result = linear(*many)
        assert result.dtype == torch.bfloat16
        assert torch.equal(result, F.linear(*many))


def test_it_is_a_linear_layer_of_torch() -> None:
    ours, theirs = Linear(3, 5), torch.nn.Linear(3, 5)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3)
    assert torch.equal(ours(x), theirs(x))


@pytest.mark.slow
def test_the_environment_can_turn_it_off() -> None:
    program = (
        "import torch; from mmtrain.nn.linear import Linear\n"
        "print(type(Linear(768, 768)(torch.ones(512, 768)).grad_fn).__name__)"
    )
    environment = os.environ | {"ATEN_CPU_CAPABILITY": "avx2"}
    said = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "AddmmBackward0"
