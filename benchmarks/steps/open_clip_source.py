"""open_clip's model and loss, from its wheel.

The package cannot be installed beside a CPU build of torch: it requires torchvision, which requires CUDA. Its model
and its loss use one class of it, a batch norm of its ResNets, which no model here has; an empty one stands in.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from torch import nn

VERSION = "3.3.0"


class OpenClip(NamedTuple):
    """Its modules."""

    model: ModuleType
    loss: ModuleType


def open_clip(folder: Path) -> OpenClip:
    """Fetches the wheel into ``folder``, once, and imports what trains a model, without the rest of the package.

    Raises:
        subprocess.CalledProcessError: pip cannot fetch it.
    """
    source = folder / f"open_clip-{VERSION}"
    if not source.exists():
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder]
        subprocess.run([*pip, f"open_clip_torch=={VERSION}"], check=True)
        with zipfile.ZipFile(folder / f"open_clip_torch-{VERSION}-py3-none-any.whl") as wheel:
            wheel.extractall(source)
    package = ModuleType("open_clip")
    package.__path__ = [str(source / "open_clip")]
    misc = ModuleType("torchvision.ops.misc")
    misc.FrozenBatchNorm2d = type("FrozenBatchNorm2d", (nn.Module,), {})  # type: ignore[attr-defined]
    stood_in = {"open_clip": package, "torchvision.ops.misc": misc}
    sys.modules |= stood_in | {name: ModuleType(name) for name in ("torchvision", "torchvision.ops")}
    try:
        return OpenClip(*(importlib.import_module(f"open_clip.{name}") for name in ("model", "loss")))
    finally:
        for name in ("torchvision", "torchvision.ops", "torchvision.ops.misc"):
            del sys.modules[name]
