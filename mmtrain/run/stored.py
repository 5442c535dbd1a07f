"""A run on disk: its checkpoint, its config, and the model that they make."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from mmtrain.callback.checkpoint import read_best
from mmtrain.callback.checkpoint_io import CheckpointRecord, latest_checkpoint, read_record, read_weights, why_torn
from mmtrain.callback.ema import averaged_weights
from mmtrain.config import instantiate
from mmtrain.errors import RunError

_MODEL = "model."


@dataclass(frozen=True)
class StoredRun:
    """A run and one of its checkpoints.

    Attributes:
        directory: Run directory.
        checkpoint: The checkpoint: a file, or a folder of shards.
        record: What is known of the checkpoint.
        config: The run's config.
    """

    directory: Path
    checkpoint: Path
    record: CheckpointRecord
    config: dict[str, Any]

    @property
    def averaged(self) -> bool:
        """Whether the run kept an average of its weights, with which it was evaluated."""
        return bool(self.config.get("callback", {}).get("ema"))

    def load_weights(self, *, live: bool = False) -> dict[str, torch.Tensor]:
        """State dict of the run's objective, on the CPU: the weights that it was evaluated with.

        Args:
            live: Whether to take those that training goes on from, also where the run kept an average.

        Raises:
            RunError: The checkpoint cannot be read.
        """
        try:
            checkpoint = read_weights(self.checkpoint)
        except (OSError, RuntimeError, pickle.UnpicklingError) as error:
            reason = f"the checkpoint cannot be read: {error}"
            raise RunError(reason, where=str(self.checkpoint), mend="name another one") from error
        trained: dict[str, torch.Tensor] = checkpoint["state_dict"]
        return trained if live else averaged_weights(checkpoint) or trained

    def load_model(self, *, live: bool = False) -> nn.Module:
        """The run's model, on the CPU, in evaluation mode; for the rest see `load_weights`."""
        model: nn.Module = instantiate(self.config["model"], "model")
        weights = self.load_weights(live=live)
        model.load_state_dict(
            {name.removeprefix(_MODEL): tensor for name, tensor in weights.items() if name.startswith(_MODEL)}
        )
        return model.eval()


def open_stored(path: Path, *, newest: bool = False) -> StoredRun:
    """A run by its directory or by one of its checkpoints.

    Args:
        path: Run directory: its best checkpoint, or the newest where none was named best. Or a checkpoint.
        newest: Whether a directory's newest checkpoint is taken in any case.

    Raises:
        RunError: There is no run, no checkpoint, or the checkpoint is torn.
    """
    checkpoint = _choose(path.resolve(), newest=newest)
    directory = checkpoint.parent.parent
    try:
        config = yaml.safe_load((directory / "config.yaml").read_text(encoding="utf-8"))
    except OSError as error:
        mend = "name a directory such as runs/clip_emoji"
        raise RunError("this is not the directory of a run", where=str(directory), mend=mend) from error
    record = read_record(checkpoint)
    assert record is not None, "a checkpoint that is not torn has a record"
    return StoredRun(directory, checkpoint, record, config)


def _choose(path: Path, *, newest: bool) -> Path:
    folder = path / "checkpoints"
    if path.suffix == ".ckpt":
        chosen = path
    elif not newest and (best := read_best(folder)) is not None:
        chosen = folder / best.file
    elif (latest := latest_checkpoint(folder)) is not None:
        return latest
    else:
        mend = "train first, or name a directory of a run"
        raise RunError("there is no checkpoint", where=str(folder), mend=mend)
    if (reason := why_torn(chosen) if chosen.exists() else "it does not exist") is not None:
        raise RunError(f"the checkpoint cannot be used: {reason}", where=str(chosen), mend="name another one")
    return chosen
