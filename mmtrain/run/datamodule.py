"""The data of a run in Lightning's terms."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import lightning.pytorch as pl

from mmtrain import distributed


class TrainLoader(Protocol):
    """Yields one rank's share of every batch of an epoch, from where its state says, and goes on to the next epoch."""

    def __len__(self) -> int:
        """Steps of a whole epoch, also after a resume into the middle of one."""

    def __iter__(self) -> Iterator[Any]:
        """The batches that are left of the epoch."""

    def state_dict(self) -> dict[str, Any]:
        """The position after the last batch handed out: plain values, the same on all ranks."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a position."""

    def take_faults(self) -> list[str]:
        """A message for each sample that was left out since the last call."""


class EvalSet(Protocol):
    """A named set of batches to evaluate on."""

    @property
    def loader(self) -> Iterable[Any]:
        """The batches of one rank; it has a length."""


class Data(Protocol):
    """What a node of config group ``data`` builds."""

    def prepare(self) -> None:
        """Downloads and indexes what is missing. Called in one process of each node."""

    @property
    def fingerprints(self) -> Mapping[str, str]:
        """sha256 of everything that is read, by name."""

    def steps_per_epoch(self) -> int:
        """Steps of one pass over the training data."""

    def train_loader(self, rank: int, world: int) -> TrainLoader:
        """The training batches of ``rank``."""

    def eval_loaders(self, rank: int, world: int) -> Mapping[str, EvalSet]:
        """The evaluation sets, in the order in which they are evaluated."""


@runtime_checkable
class TokenData(Protocol):
    """A data node whose samples all have as many tokens, so that a budget can count them."""

    @property
    def tokens_per_sample(self) -> int:
        """Tokens of a sample that are learned from."""


class DataModule(pl.LightningDataModule):
    """Hands a data node's loaders to the trainer, and keeps the position in the training data in the checkpoint.

    State kept on a loader itself is not restored by Lightning from checkpoints of an epoch's end, and on several ranks
    would be rank 0's. Here it is the data module's, and applied when the trainer asks for the loader.

    Args:
        data: The data node.
    """

    def __init__(self, data: Data) -> None:
        super().__init__()
        self.data = data
        self.eval_sets: dict[str, EvalSet] = {}
        self._loader: TrainLoader | None = None
        self._restored: dict[str, Any] | None = None

    def prepare_data(self) -> None:
        """Makes the data ready on this node."""
        self.data.prepare()

    def setup(self, stage: str) -> None:
        """Builds the evaluation sets; their order is the order of the trainer's ``dataloader_idx``."""
        self.eval_sets = dict(
            self.data.eval_loaders(distributed.data_parallel_rank(), distributed.data_parallel_size())
        )

    def train_dataloader(self) -> TrainLoader:
        """The training loader, at the restored position."""
        self._loader = self.data.train_loader(distributed.data_parallel_rank(), distributed.data_parallel_size())
        if self._restored is not None:
            self._loader.load_state_dict(self._restored)
        return self._loader

    def val_dataloader(self) -> list[Iterable[Any]]:
        """The loaders of the evaluation sets, in their order."""
        return [eval_set.loader for eval_set in self.eval_sets.values()]

    def state_dict(self) -> dict[str, Any]:
        """The position in the training data."""
        if self._loader is None:
            return dict(self._restored or {})
        return self._loader.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keeps the position until the loader is built."""
        self._restored = state_dict

    def take_faults(self) -> list[str]:
        """A message for each training sample that was left out on this rank since the last call."""
        return self._loader.take_faults() if self._loader is not None else []
