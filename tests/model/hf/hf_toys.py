"""What the tests of every family do: a Hugging Face model in the form of a folder, and what two state dicts share."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mmtrain.model.hf.folder import Folder, read_folder

LAYERS = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def disturb(model: nn.Module, seed: int = 1) -> None:
    """Moves every weight: biases that start at 0 and gains at 1 would hide a mix-up."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


def saved(model: PreTrainedModel, path: Path) -> Folder:
    """The folder that transformers writes of a model."""
    model.save_pretrained(path)
    return read_folder(path)


def assert_equal_weights(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def assert_close(x: Tensor, y: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(x, y, atol=atol, rtol=1e-5)
