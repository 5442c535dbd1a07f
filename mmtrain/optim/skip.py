"""Steps that change nothing, decided on the device."""

from __future__ import annotations

from torch import Tensor
from torch.optim import Optimizer

from mmtrain.optim.muon import Combined, OrthogonalMomentum


def skip_where(flag: Tensor, optimizer: Optimizer) -> None:
    """Has the next step leave parameters, moments and counters as they are, bit for bit, where ``flag`` is true.

    The host does not wait for the flag where the optimizer can look at it: PyTorch's fused ones, which do it for
    gradient scalers, and this package's. For others it waits, and a parameter without gradient is one that PyTorch's
    optimizers pass over. Where the host need not wait, the optimizer is spared the look.

    Args:
        flag: A scalar, bool.
        optimizer: The optimizer, its gradients computed and its step to come.
    """
    if _looks_at_found_inf(optimizer):
        known_to_be_false = flag.device.type == "cpu" and not flag
        optimizer.found_inf = None if known_to_be_false else flag.float()  # type: ignore[attr-defined]
    elif flag:
        optimizer.zero_grad(set_to_none=True)


def _looks_at_found_inf(optimizer: Optimizer) -> bool:
    if isinstance(optimizer, Combined):
        return all(map(_looks_at_found_inf, optimizer.optimizers))
    return isinstance(optimizer, OrthogonalMomentum) or bool(optimizer.defaults.get("fused"))
