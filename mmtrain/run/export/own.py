"""Our own form of an exported model: ``model.safetensors`` and, in ``mmtrain.yaml``, the config that builds it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from mmtrain.config import instantiate
from mmtrain.errors import RunError

CONFIG = "mmtrain.yaml"
_WEIGHTS = "model.safetensors"


def write_own(folder: Path, config: Mapping[str, Any], model: nn.Module) -> None:
    """Writes a model.

    Args:
        folder: An existing folder.
        config: The node of the config group ``model`` that builds it.
        model: The model.
    """
    content = yaml.safe_dump({"model": dict(config)}, sort_keys=False, allow_unicode=True)
    (folder / CONFIG).write_text(content, encoding="utf-8")
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, folder / _WEIGHTS, metadata={"format": "pt"})


def read_own(folder: Path) -> nn.Module:
    """The model of a folder that `write_own` wrote, on the CPU, in evaluation mode.

    Raises:
        RunError: A file is missing or damaged.
    """
    try:
        config = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
        weights = load_file(folder / _WEIGHTS)
    except (OSError, yaml.YAMLError, SafetensorError) as error:
        reason = f"the exported model cannot be read: {type(error).__name__}: {error}"
        raise RunError(reason, where=str(folder), mend="export it anew") from error
    model: nn.Module = instantiate(config["model"], "model")
    model.load_state_dict(weights)
    return model.eval()
