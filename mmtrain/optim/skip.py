"""Steps that change nothing, decided on the device."""

from __future__ import annotations

from torch import Tensor
from torch.optim import Optimizer

from mmtrain.optim.muon import Combined, OrthogonalMomentum


def skip_where(flag: Tensor, optimizer: Optimizer) -> None:
    """Has the next step leave parameters, moments and counters as they are, bit for bit, where ``flag`` is true.

    The host does not look at the flag where the optimizer can: PyTorch's fused ones, which do it for gradient scalers,
    and this package's. For others it does, and a parameter without gradient is one that PyTorch's optimizers pass over.

    Args:
        flag: A scalar, bool.
        optimizer: The optimizer, its gradients computed and its step to come.
    """
    if _looks_at_found_inf(optimizer):
        optimizer.found_inf = flag.float()  # type: ignore[attr-defined]
    elif flag:
        optimizer.zero_grad(set_to_none=True)


def _looks_at_found_inf(optimizer: Optimizer) -> bool:
    if isinstance(optimizer, Combined):
        return all(map(_looks_at_found_inf, optimizer.optimizers))
    return isinstance(optimizer, OrthogonalMomentum) or bool(optimizer.defaults.get("fused"))
