"""Folders of other libraries: read in all their forms, and refused when they are damaged or unknown."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from hf_toys import assert_equal_weights

from mmtrain.errors import RunError
from mmtrain.model.bert import Bert
from mmtrain.model.hf.families import from_folder, to_hf
from mmtrain.model.hf.folder import Folder, is_folder, read_folder, write_folder


def bert() -> Bert:
    return Bert(vocab_size=50, context_length=16, d_model=32, num_layers=1, num_heads=4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_folder(tmp_path, *to_hf(bert()))
    return tmp_path


def pickled(folder: Path) -> None:
    weights = read_folder(folder).weights
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")


def test_safetensors_and_pickles_hold_the_same(folder: Path) -> None:
    weights = read_folder(folder).weights
    pickled(folder)
    assert_equal_weights(read_folder(folder).weights, weights)


def test_weights_in_several_files_are_one_model(folder: Path) -> None:
    weights = read_folder(folder).weights
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    index = {}
    for number, part in enumerate((names[:9], names[9:])):
        write_folder(folder, read_folder_config(folder), {name: weights[name] for name in part})
        (folder / "model.safetensors").rename(folder / f"model-{number}.safetensors")
        index |= dict.fromkeys(part, f"model-{number}.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    assert_equal_weights(read_folder(folder).weights, weights)


def read_folder_config(folder: Path) -> dict[str, object]:
    config: dict[str, object] = json.loads((folder / "config.json").read_text())
    return config


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("1 / 0",)


def test_a_pickle_with_code_is_not_run(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": Evil()}, protocol=2))
    with pytest.raises(RunError, match="the folder cannot be read: UnpicklingError"):
        read_folder(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_torn_file_is_told(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(RunError, match="the folder cannot be read"):
        read_folder(folder)


def test_a_folder_without_weights_is_told(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert is_folder(folder)
    with pytest.raises(RunError, match="it needs model.safetensors or pytorch_model.bin"):
        read_folder(folder)


def test_a_family_that_is_not_known_is_named() -> None:
    with pytest.raises(RunError, match="models of type 'berd' are not known here\n.*\n.*did you mean 'bert'"):
        from_folder(Folder("here", {"model_type": "berd"}, {}))


def test_an_activation_that_is_not_known_is_named(folder: Path) -> None:
    read = read_folder(folder)
    with pytest.raises(RunError, match="the activation 'gelo' is not known here"):
        from_folder(Folder("here", {**read.config, "hidden_act": "gelo"}, read.weights))


def test_a_model_without_counterpart_is_told() -> None:
    with pytest.raises(RunError, match="Hugging Face has no counterpart of a Linear"):
        to_hf(torch.nn.Linear(1, 1))
