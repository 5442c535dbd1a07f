"""Against the real open_clip, whose wheel is downloaded, pinned, and never installed; see ``open_clip_program``."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from clip_toys import toy_clip, toy_images, toy_texts
from hf_toys import assert_close, assert_equal_weights, disturb

from mmtrain.data.download import Archive, fetch
from mmtrain.errors import RunError
from mmtrain.model.clip import CLIP
from mmtrain.model.hf.families import from_folder
from mmtrain.model.hf.folder import OPEN_CLIP, Folder, read_folder, write_folder
from mmtrain.model.hf.open_clip import to_open_clip

WHEEL = Archive("open_clip_torch", "3.3.0", "c549ad5ed6bfc119cc11105033c0a2b9d7a2a4afeb40a58a09aab3da1a0043ce")
PROGRAM = Path(__file__).with_name("open_clip_program.py")


@pytest.fixture(scope="session")
def open_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("open_clip")
    with zipfile.ZipFile(fetch(WHEEL)) as wheel:
        wheel.extractall(folder)
    return folder


def outputs(model: CLIP, open_clip: Path, folder: Path) -> dict[str, Any]:
    """What open_clip makes of the exported model on `toy_images` and `toy_texts`."""
    pixels = (toy_images(6) / 255 - model.image_mean) / model.image_std
    torch.save({"pixels": pixels, "texts": toy_texts(6)}, folder / "inputs.pt")
    command = [sys.executable, PROGRAM, open_clip, folder, folder / "inputs.pt", folder / "outputs.pt"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = torch.load(folder / "outputs.pt", weights_only=True)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"activation": "quick_gelu"}, {"norm_eps": 1e-6}], ids=["quick_gelu", "eps"])
def test_open_clip_loads_the_folder_and_agrees(options: dict[str, Any], open_clip: Path, tmp_path: Path) -> None:
    model = toy_clip(**options).eval()
    disturb(model)
    config, weights = to_open_clip(model)
    write_folder(tmp_path, config, weights, OPEN_CLIP)
    found = outputs(model, open_clip, tmp_path)
    image_BD, text_BD = model(toy_images(6), toy_texts(6))
    assert_close(image_BD, found["image"])
    assert_close(text_BD, found["text"])
    assert_close(model.scale(), found["scale"])
    assert_equal_weights(found["state_dict"], weights)
    # What open_clip itself would save comes back bit for bit.
    back = from_folder(Folder("theirs", config, found["state_dict"]))
    assert_equal_weights(back.state_dict(), model.state_dict())


def test_a_folder_comes_back_as_the_same_model(tmp_path: Path) -> None:
    model = toy_clip(activation="quick_gelu", seed=3).eval()
    model.logit_bias = torch.nn.Parameter(torch.tensor(-10.0))
    config, weights = to_open_clip(model)
    write_folder(tmp_path, config, weights, OPEN_CLIP)
    back = from_folder(read_folder(tmp_path)).eval()
    assert isinstance(back, CLIP)
    assert_equal_weights(back.state_dict(), model.state_dict())
    for ours, theirs in zip(model(toy_images(6), toy_texts(6)), back(toy_images(6), toy_texts(6)), strict=True):
        assert torch.equal(ours, theirs)


def test_a_stem_has_no_place() -> None:
    with pytest.raises(RunError, match=r"without a counterpart  image\.patch_embed\.0\.weight"):
        to_open_clip(toy_clip(image={"stem": [8]}))


def test_activations_that_open_clip_has_not_are_refused() -> None:
    with pytest.raises(RunError, match="its activations are gelu_pytorch_tanh"):
        to_open_clip(toy_clip(activation="gelu_tanh"))
