"""Runs the real open_clip, unpacked from its wheel, in a process of its own.

Arguments: the unpacked wheel, the model's folder, a file of inputs, a file for the outputs.

open_clip imports torchvision for its image transforms and one class of ResNet's. torchvision must not be installed here
(its build links CUDA), so those names are stand-ins. No code of a model calls them, and a stand-in that is used raises.
"""

from __future__ import annotations

import enum
import sys
import types
from typing import Any


class InterpolationMode(enum.Enum):
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"


class Missing:
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError("a stand-in for torchvision was used")


def stand_in() -> None:
    names = ("Normalize", "Compose", "RandomResizedCrop", "ToTensor", "Resize", "CenterCrop")
    for module, contents in {
        "torchvision": (),
        "torchvision.transforms": (*names, "ColorJitter", "Grayscale"),
        "torchvision.transforms.functional": (),
        "torchvision.ops": (),
        "torchvision.ops.misc": ("FrozenBatchNorm2d",),
    }.items():
        sys.modules[module] = types.ModuleType(module)
        for name in contents:
            setattr(sys.modules[module], name, type(name, (Missing,), {}))
    sys.modules["torchvision.transforms"].functional = sys.modules["torchvision.transforms.functional"]  # type: ignore
    sys.modules["torchvision.transforms"].InterpolationMode = InterpolationMode  # type: ignore
    sys.modules["transformers"] = None  # type: ignore  # open_clip does without; it would look for torchvision's version


def main(wheel: str, model_folder: str, inputs: str, outputs: str) -> None:
    stand_in()
    sys.path.insert(0, wheel)
    import open_clip
    import torch

    model = open_clip.create_model(f"local-dir:{model_folder}").eval()
    given = torch.load(inputs, weights_only=True)
    with torch.no_grad():
        image_BD, text_BD, scale, *bias = model(given["pixels"], given["texts"])
    results = {"image": image_BD, "text": text_BD, "scale": scale, "state_dict": model.state_dict()}
    torch.save(results | ({"bias": bias[0]} if bias else {}), outputs)


if __name__ == "__main__":
    main(*sys.argv[1:])
