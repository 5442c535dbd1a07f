"""Targets of the tests' configuration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import system as imported_system  # noqa: F401  (a stranger's function within an allowed package)
from typing import TYPE_CHECKING, Any, Literal

from mmtrain.errors import DataError

if TYPE_CHECKING:
    from nowhere import Unresolvable


class Module:
    pass


class Tower(Module):
    def __init__(self, width: int, depth: int = 2, name: Literal["vit", "bert"] = "vit") -> None:
        self.width, self.depth, self.name = width, depth, name


class DeepTower(Tower):
    """Inherits its constructor."""


class Pair(Module):
    def __init__(
        self,
        image: Module,
        text: Module | None = None,
        extra: Sequence[Tower] = (),
        by_name: dict[str, Tower] | None = None,
        lr: float = 1.0,
        odd: Unresolvable | None = None,
        make: Callable[[], Tower] | None = None,
    ) -> None:
        self.image, self.text, self.extra, self.by_name, self.lr = image, text, extra, by_name, lr
        self.odd, self.make = odd, make


class Contrast:
    def __init__(self, model: Module, optim: Any, micro_batch_size: int, smoothing: float = 0.0) -> None:
        self.model = model


@dataclass
class Pictures:
    seed: int
    global_batch_size: int
    micro_batch_size: int | None = None
    size: tuple[int, int] = (8, 8)


@dataclass
class Optim:
    lr: float
    betas: tuple[float, float]


class Strategy:
    pass


class Ema:
    def __init__(self, decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"decay={decay} is not between 0 and 1")


class FileLogger:
    def __init__(self, dir: str = ".", **options: Any) -> None:
        self.dir, self.options = dir, options


class Strict:
    def __init__(self) -> None:
        raise DataError("no data here", where="shard 3")


def make_tower(width: int) -> Tower:
    return Tower(width)


NOT_CALLABLE = 3
