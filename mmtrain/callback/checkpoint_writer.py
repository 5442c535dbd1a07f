"""How a checkpoint comes to the disk: a file by rank 0, or a folder of shards by all ranks while training goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from mmtrain import distributed
from mmtrain.callback.checkpoint_io import CheckpointRecord, Measure, measure, remove, seal, unsealed_path
from mmtrain.callback.checkpoint_shards import Content, Shards, Stage


@dataclass(frozen=True)
class Save:
    """A checkpoint to be written.

    Attributes:
        path: Its name.
        step: Optimizer steps completed.
        metrics: Evaluation metrics of this step; only rank 0's count.
        best: Whether it is the best so far; only rank 0's answer counts.
    """

    path: Path
    step: int
    metrics: dict[str, float]
    best: bool


@dataclass(frozen=True)
class Written:
    """What became of a save, the same on all ranks.

    Attributes:
        save: The save.
        error: Why there is no such checkpoint; None where there is.
    """

    save: Save
    error: str | None


class Writer:
    """Writes one checkpoint at a time, seals it, and removes what is left of one that failed.

    A content with sharded tensors becomes a folder. Where it is written in the background, its shards are copied to
    this host's memory, and a thread does the rest; ranks agree over a process group of their own, so that training's
    collectives and these do not mix. A content without is written by rank 0 while all wait, as it costs them little.

    Args:
        on_sealed: Called on rank 0, in the thread, when a checkpoint is complete.
        background: Whether folders are written in the background.
    """

    def __init__(self, on_sealed: Callable[[Save, CheckpointRecord], None], background: bool) -> None:
        self._on_sealed = on_sealed
        self._background = background
        self._pending: tuple[Save, Future[str | None]] | None = None
        self._stage = Stage()
        self._group: dist.ProcessGroup | None = None
        self._pool = ThreadPoolExecutor(1, "checkpoint")

    @property
    def finished(self) -> bool:
        """Whether there is a result that `wait` has not yet given."""
        return self._pending is not None and self._pending[1].done()

    def start(self, content: Content, save: Save) -> None:
        """Begins to write. All ranks must call it, and `wait` before.

        Args:
            content: Of the checkpoint: tensors sharded on all ranks, or whole ones on rank 0.
            save: Which checkpoint it is.
        """
        assert self._pending is None, "one checkpoint at a time"
        shards = Shards(content)
        if not shards.tensors:
            error = self._write_file(content, save) if distributed.rank() == 0 else None
            result: Future[str | None] = Future()
            result.set_result(distributed.broadcast_object(error))
        else:
            self._group = self._group or dist.new_group(backend="gloo")
            shards = self._stage.copy(shards) if self._background else shards
            result = self._pool.submit(self._write_folder, shards, save, self._group)
        self._pending = save, result

    def wait(self) -> Written | None:
        """Waits for the checkpoint that is being written; None where none is."""
        if self._pending is None:
            return None
        save, result = self._pending
        self._pending = None
        return Written(save, result.result())

    def _write_file(self, content: Content, save: Save) -> str | None:
        def write() -> None:
            save.path.parent.mkdir(parents=True, exist_ok=True)
            with unsealed_path(save.path).open("wb") as file:
                torch.save(content, file)
            self._seal(save, None)

        return self._clean(save, _error_of(write))

    def _write_folder(self, shards: Shards, save: Save, group: dist.ProcessGroup) -> str | None:
        own: dict[str, Measure] = {}

        def write() -> None:
            files = shards.write(unsealed_path(save.path), group)
            own.update((file.name, measure(file)) for file in files)

        told: list[tuple[str | None, dict[str, Measure]]] = [(None, {})] * dist.get_world_size(group)
        dist.all_gather_object(told, (_error_of(write), own), group=group)
        agreed = [next((error for error, _ in told if error is not None), None)]
        if dist.get_rank(group) == 0:
            parts = {name: part for _, every in told for name, part in every.items()}
            agreed = [self._clean(save, agreed[0] or _error_of(lambda: self._seal(save, parts)))]
        dist.broadcast_object_list(agreed, src=0, group=group)
        return agreed[0]

    def _seal(self, save: Save, parts: Mapping[str, Measure] | None) -> None:
        record = seal(unsealed_path(save.path), save.path, step=save.step, metrics=save.metrics, parts=parts)
        self._on_sealed(save, record)

    @staticmethod
    def _clean(save: Save, error: str | None) -> str | None:
        if error is not None:
            remove(unsealed_path(save.path))
        return error


def _error_of(action: Callable[[], None]) -> str | None:
    """What of a disk, or of PyTorch's writing to it, went wrong in an action."""
    try:
        action()
    except (OSError, RuntimeError) as error:
        return str(error)
    return None
