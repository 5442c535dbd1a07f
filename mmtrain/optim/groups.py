"""Which parameters share a learning rate and a weight decay."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import takewhile
from typing import Any

from torch import nn

from mmtrain.errors import ConfigError


def decay_groups(
    parameters: Iterable[nn.Parameter], weight_decay: float, *, lr: float, lr_shares: Mapping[nn.Parameter, float]
) -> list[dict[str, Any]]:
    """Two groups for each learning rate: matrices, with decay; vectors and scalars (gains, biases), without.

    Args:
        parameters: The parameters, each in one group.
        weight_decay: Decay of every parameter of two or more dimensions, embeddings included.
        lr: Learning rate.
        lr_shares: Shares of ``lr`` for parameters that have less than all of it, as `lr_by_depth` gives them.
    """
    by_share: dict[float, list[nn.Parameter]] = {1.0: []}
    for parameter in parameters:
        by_share.setdefault(lr_shares.get(parameter, 1.0), []).append(parameter)
    return [
        group
        for share, every in by_share.items()
        for group in (
            {"params": [p for p in every if p.ndim >= 2], "lr": lr * share, "weight_decay": weight_decay},
            {"params": [p for p in every if p.ndim < 2], "lr": lr * share, "weight_decay": 0.0},
        )
    ]


def lr_by_depth(model: nn.Module, decay: float) -> dict[nn.Parameter, float]:
    """Shares of the learning rate that fall with the distance from the head (ELECTRA, arXiv:2003.10555; BEiT).

    ``decay ** (L + 1 - d)`` in a tower of L blocks: d is 0 for what stands before the blocks, embeddings, positions and
    their norm, and n for the n-th block, from 1. All else, a head or what joins two towers, has the whole rate and is
    not named. A tower is the module that holds a Transformer, whose blocks are an ``nn.ModuleList``; its own parameters
    and the modules that it has registered ahead of the Transformer stand before the blocks. An embedding that is tied
    to a head counts as an embedding.

    Args:
        model: The model, of one tower or several.
        decay: Share of the rate that a layer has of the one above it, in (0, 1].

    Raises:
        ConfigError: The model has no stack of blocks, or ``decay`` is no such share.
    """
    if not 0 < decay <= 1:
        raise ConfigError(
            f"layer_decay={decay} is no share of a learning rate", where="optim", mend="set a number above 0, up to 1"
        )
    shares: dict[nn.Parameter, float] = {}
    for tower, transformer, blocks in _towers(model):
        for depth, block in enumerate(blocks):
            shares |= dict.fromkeys(block.parameters(), decay ** (len(blocks) - depth))
        shares |= dict.fromkeys(_before(tower, transformer), decay ** (len(blocks) + 1))
    if not shares:
        raise ConfigError(
            f"layer_decay={decay}, and the model has no stack of blocks", where="optim", mend="set it to null"
        )
    return shares


def _towers(model: nn.Module) -> Iterator[tuple[nn.Module, nn.Module, nn.ModuleList]]:
    """Each tower of the model, its Transformer, and the blocks of that."""
    for tower in model.modules():
        for transformer in tower.children():
            for blocks in transformer.children():
                if isinstance(blocks, nn.ModuleList) and not isinstance(transformer, nn.ModuleList):
                    yield tower, transformer, blocks


def _before(tower: nn.Module, transformer: nn.Module) -> Iterator[nn.Parameter]:
    """The tower's own parameters, and those of the modules that it has registered ahead of the Transformer."""
    yield from tower.parameters(recurse=False)
    for child in takewhile(lambda child: child is not transformer, tower.children()):
        yield from child.parameters()
