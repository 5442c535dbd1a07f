from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmtrain.nn.cross_entropy import IGNORED, CrossEntropy

N, D, V = 37, 16, 50


def inputs(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden_ND = torch.randn(N, D, generator=generator, dtype=dtype).requires_grad_()
    weight_VD = torch.randn(V, D, generator=generator, dtype=dtype).requires_grad_()
    target_N = torch.randint(0, V, (N,), generator=generator)
    target_N[::5] = IGNORED
    return hidden_ND, weight_VD, target_N


def reference(hidden_ND: Tensor, weight_VD: Tensor, target_N: Tensor, z_loss: float) -> tuple[Tensor, Tensor]:
    logits_NV = hidden_ND @ weight_VD.T
    nll = F.cross_entropy(logits_NV, target_N, reduction="sum", ignore_index=IGNORED)
    return nll + z_loss * (logits_NV.logsumexp(dim=-1)[target_N != IGNORED] ** 2).sum(), nll


@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
@pytest.mark.parametrize("tokens_at_once", [1, 8, N, 1000])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
def test_sums_and_gradients_are_those_of_all_logits(
    z_loss: float, tokens_at_once: int, dtype: torch.dtype, tolerance: float
) -> None:
    hidden, weight, target = inputs(dtype)
    loss, nll = CrossEntropy(z_loss, logits_at_once=tokens_at_once * V)(hidden, weight, target)
    expected_loss, expected_nll = reference(hidden, weight, target, z_loss)
    assert loss.dtype == nll.dtype == dtype
    torch.testing.assert_close((loss, nll), (expected_loss, expected_nll.detach()), atol=0, rtol=tolerance)
    for found, expected in zip(
        torch.autograd.grad(0.3 * loss, (hidden, weight)),
        torch.autograd.grad(0.3 * expected_loss, (hidden, weight)),
        strict=True,
    ):
        assert (found - expected).norm() <= 2 * tolerance * expected.norm()


def test_rows_in_cache_at_a_time_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for in_cache in (5 * V, 10 * N * V):
        monkeypatch.setattr("mmtrain.nn.cross_entropy.IN_CACHE", in_cache)
        hidden, weight, target = inputs(torch.float64)
        loss, nll = CrossEntropy(z_loss=0.1, logits_at_once=12 * V)(hidden, weight, target)
        found.append((loss, nll, *torch.autograd.grad(loss, (hidden, weight))))
    torch.testing.assert_close(found[0], found[1], atol=1e-13, rtol=1e-13)


def test_derivatives_are_those_of_finite_differences() -> None:
    hidden, weight, target = inputs(torch.float64)
    hidden, weight, target = hidden[:5, :2], weight[:7, :2], target[:5] % 7
    criterion = CrossEntropy(z_loss=0.1, logits_at_once=2 * 7)
    assert torch.autograd.gradcheck(lambda h, w: criterion(h, w, target)[0], (hidden, weight))


def test_a_token_that_does_not_count_has_no_gradient() -> None:
    hidden, weight, target = inputs()
    loss, _ = CrossEntropy(z_loss=0.1)(hidden, weight, target)
    (gradient,) = torch.autograd.grad(loss, hidden)
    assert torch.equal(gradient.any(dim=1), target != IGNORED)


def test_rows_that_do_not_count_at_all_give_zeros() -> None:
    hidden, weight, target = inputs()
    loss, nll = CrossEntropy(z_loss=0.1)(hidden, weight, torch.full_like(target, IGNORED))
    assert (loss.item(), nll.item()) == (0.0, 0.0)
    assert not any(gradient.any() for gradient in torch.autograd.grad(loss, (hidden, weight)))


def test_no_gradient_is_made_where_none_is_wanted() -> None:
    hidden, weight, target = inputs()
    with torch.no_grad():
        loss, _ = CrossEntropy()(hidden, weight, target)
    assert not loss.requires_grad
    loss, _ = CrossEntropy()(hidden, weight.detach(), target)
    loss.backward()
    assert hidden.grad is not None and weight.grad is None


def test_under_autocast_only_the_products_are_of_low_precision() -> None:
    hidden, weight, target = inputs()
    expected, _ = reference(hidden.bfloat16().float(), weight.bfloat16().float(), target, 0.0)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = CrossEntropy(logits_at_once=8 * V)(hidden, weight, target)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=2e-3, atol=0)
    gradients = torch.autograd.grad(loss, (hidden, weight))
    exact = torch.autograd.grad(reference(hidden, weight, target, 0.0)[0], (hidden, weight))
    for found, wanted in zip(gradients, exact, strict=True):
        assert found.dtype == torch.float32
        assert (found - wanted).norm() < 0.02 * wanted.norm()


def test_the_head_weight_keeps_its_gradient_where_autocast_has_a_cache() -> None:
    """A copy in half precision that autocast made without gradient must not be found by what comes after."""
    hidden, weight, target = inputs()
    with torch.autocast("cpu", torch.bfloat16):
        CrossEntropy()(hidden, weight, target)
        F.linear(hidden, weight).float().sum().backward()
    assert weight.grad is not None


def _peak(action: Callable[[], Tensor]) -> int:
    """The MiB by which a process grows at most while it takes a loss and its gradient."""
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = _status("VmRSS")
    action().backward()
    return (_status("VmHWM") - before) // 1024


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def peaks_of_memory() -> str:
    """Peaks of the chunked loss and of the plain one."""
    hidden_ND, weight_VD = torch.randn(2048, 64, requires_grad=True), torch.randn(16384, 64, requires_grad=True)
    target_N = torch.zeros(2048, dtype=torch.long)
    chunked = _peak(lambda: CrossEntropy(logits_at_once=2**22)(hidden_ND, weight_VD, target_N)[0])
    plain = _peak(lambda: F.cross_entropy(hidden_ND @ weight_VD.T, target_N, reduction="sum"))
    return f"{chunked} {plain}"


def test_memory_is_that_of_a_chunk() -> None:
    """All logits are 128 MiB, and a plain loss holds three times as many numbers; a chunk of them is 16 MiB here."""
    script = "from test_cross_entropy import peaks_of_memory; print(peaks_of_memory())"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=Path(__file__).parent, timeout=120
    )
    assert done.returncode == 0, done.stderr
    chunked, plain = map(int, done.stdout.split())
    assert plain > 180
    assert chunked < plain / 2
