"""The position in the data belongs to the data module."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from mmtrain.run.datamodule import DataModule


class Loader:
    def __init__(self) -> None:
        self.position = 0

    def __len__(self) -> int:
        return 5

    def __iter__(self) -> Iterator[int]:
        while self.position < 5:
            self.position += 1
            yield self.position

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]


@dataclass
class Set:
    loader: Iterable[Any]


class Source:
    prepared = 0

    def prepare(self) -> None:
        self.prepared += 1

    def train_loader(self, rank: int, world: int) -> Loader:
        assert (rank, world) == (0, 1)
        return Loader()

    def eval_loaders(self, rank: int, world: int) -> dict[str, Set]:
        return {"seen": Set([1, 2]), "new": Set([3])}


def test_the_position_is_restored_when_the_loader_is_built() -> None:
    first = DataModule(Source())
    iterator = iter(first.train_dataloader())
    assert [next(iterator) for _ in range(3)] == [1, 2, 3]
    second = DataModule(Source())
    second.load_state_dict(first.state_dict())
    assert list(second.train_dataloader()) == [4, 5]


def test_a_position_restored_and_not_used_is_not_lost() -> None:
    module = DataModule(Source())
    module.load_state_dict({"position": 2})
    assert module.state_dict() == {"position": 2}


def test_evaluation_loaders_stand_in_the_order_of_their_sets() -> None:
    module = DataModule(Source())
    module.prepare_data()
    module.setup("fit")
    assert module.data.prepared == 1  # type: ignore[attr-defined]
    assert list(module.eval_sets) == ["seen", "new"]
    assert module.val_dataloader() == [[1, 2], [3]]
