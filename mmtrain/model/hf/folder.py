"""A folder of another library: a config and weights, read without running any code."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmtrain.errors import RunError
from mmtrain.model.hf.names import Weights

HF = "config.json"
OPEN_CLIP = "open_clip_config.json"
_WEIGHTS = {
    HF: ("model.safetensors", "pytorch_model.bin"),
    OPEN_CLIP: ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"),
}


@dataclass(frozen=True)
class Folder:
    """What a folder holds.

    Attributes:
        where: Its path, for messages.
        config: ``config.json``, or ``open_clip_config.json``.
        weights: The weights by their names.
    """

    where: str
    config: Mapping[str, Any]
    weights: Weights

    @property
    def architecture(self) -> str:
        """The class that wrote the folder, such as ``BertForPreTraining``; empty where it is not stated."""
        return next(iter(self.config.get("architectures") or ()), "")


def is_folder(path: Path) -> bool:
    """Whether ``path`` is a folder of Hugging Face's or open_clip's form."""
    return any((path / config).is_file() for config in _WEIGHTS)


def read_folder(path: Path) -> Folder:
    """Reads ``config.json`` and ``model.safetensors``, or ``pytorch_model.bin`` if that is missing, in parts or whole;
    or open_clip's files of this kind.

    Raises:
        RunError: A file is missing or damaged, or holds more than tensors.
    """
    config_name = OPEN_CLIP if (path / OPEN_CLIP).is_file() else HF
    try:
        config = json.loads((path / config_name).read_text(encoding="utf-8"))
        files = _weight_files(path, config_name)
        weights: Weights = {}
        for file in files:
            weights |= _read(file)
    except (OSError, ValueError, KeyError, SafetensorError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = f"the folder cannot be read: {type(error).__name__}: {error}"
        raise RunError(reason, where=str(path), mend="download it anew, or name another folder") from error
    if not weights:
        mend = f"it needs {' or '.join(_WEIGHTS[config_name])}"
        raise RunError("the folder holds no weights", where=str(path), mend=mend)
    return Folder(str(path), config, weights)


def write_folder(path: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor], config_name: str = HF) -> None:
    """Writes the config and the weights, as safetensors, into an existing folder."""
    (path / config_name).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    save_file(dict(weights), path / _WEIGHTS[config_name][0], metadata={"format": "pt"})


def _weight_files(path: Path, config_name: str) -> list[Path]:
    for name in _WEIGHTS[config_name]:
        index = path / f"{name}.index.json"
        if (path / name).is_file():
            return [path / name]
        if index.is_file():
            return [path / part for part in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
    return []


def _read(file: Path) -> Weights:
    if file.suffix == ".safetensors":
        return load_file(file)
    weights: Weights = torch.load(file, map_location="cpu", weights_only=True)
    return weights
