"""The package of ``examples/rotnet``: installed beside mmtrain, it trains without a change to mmtrain."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from gloo_ranks import RunRanks
from tiny_run import ROOT, differences, finish, kill_group, last_checkpoint, rows, start, wait_for_step
from torch import Tensor, nn

from mmtrain import distributed
from mmtrain.callback.checkpoint_io import checkpoint_path

EXAMPLE = ROOT / "examples" / "rotnet"
STEPS = 24
SHORT = ("budget.epochs=null", f"budget.samples={64 * STEPS}", "callback.checkpoint.every_n_steps=5", "logger=none")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as pip installs it, from a copy: building leaves files in the source."""
    home = tmp_path_factory.mktemp("rotnet")
    source = shutil.copytree(
        EXAMPLE, home / "source", ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__")
    )
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    options = ["--no-deps", "--no-build-isolation", "--target", home / "site"]
    subprocess.run([*pip, "install", *options, source], check=True, timeout=120)
    return home / "site"


def arguments(site: Path, *more: str) -> list[str]:
    return ["--config-dir", str(site / "rotnet" / "conf"), "experiment=rotnet_drawings", *more]


def shown(site: Path, folder: Path, *overrides: str, path: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mmtrain", "show", *arguments(site, *overrides)]
    environment = os.environ | {"PYTHONPATH": path}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def test_its_overrides_are_checked_like_ours(site: Path, tmp_path: Path) -> None:
    done = shown(site, tmp_path, "model.chanels=[8]", "data.source.trian=9", path=f"{site}{os.pathsep}{ROOT}")
    assert done.returncode == 1
    target = r'^objective\._target_ = "rotnet\.objective\.RotationPrediction"  # .*rotation\.yaml:1$'
    assert re.search(target, done.stdout, re.MULTILINE)
    assert done.stderr.startswith("error: 2 mistakes in the configuration\n"), "and all else is right"
    assert "model.chanels: unknown key: rotnet.model.ConvNet does not take it" in done.stderr
    assert "did you mean 'channels'?" in done.stderr and "did you mean 'train'?" in done.stderr


def test_a_config_alone_allows_no_code(site: Path, tmp_path: Path) -> None:
    """The modules can be imported, but nobody has installed them."""
    done = shown(site, tmp_path, path=f"{EXAMPLE}{os.pathsep}{ROOT}")
    assert done.returncode == 1
    assert "_target_ 'rotnet.objective.RotationPrediction' is not allowed" in done.stderr
    assert "an entry point in 'mmtrain.targets'" in done.stderr


@pytest.mark.slow
def test_it_trains_and_goes_on_after_a_kill_to_the_same_bits_and_evaluates(site: Path, tmp_path: Path) -> None:
    path = {"PYTHONPATH": f"{site}{os.pathsep}{ROOT}"}
    log = tmp_path / "log.txt"
    whole = start(arguments(site, "run.dir=whole", *SHORT), log, **path)
    finish(whole, log)
    scores = [row["eval/test/accuracy"] for row in rows(tmp_path / "whole") if "eval/test/accuracy" in row]
    assert len(scores) == 2 and scores[-1] > 0.5, "chance is 0.25"

    broken = tmp_path / "broken"
    killed = start(
        arguments(site, "run.dir=broken", *SHORT, "trainer.log_every_n_steps=1"), tmp_path / "killed.txt", **path
    )
    wait_for_step(broken, 11, killed, tmp_path / "killed.txt")
    kill_group(killed)
    assert not checkpoint_path(broken / "checkpoints", STEPS).exists()
    # The same command goes on as well; resume finds the configs by itself.
    said = finish(start(["resume", "broken"], tmp_path / "resumed.txt", **path), tmp_path / "resumed.txt")
    assert "going on at step" in said
    assert differences(last_checkpoint(tmp_path / "whole")["state_dict"], last_checkpoint(broken)["state_dict"]) == []

    said = finish(start(["eval", "whole"], tmp_path / "eval.txt", **path), tmp_path / "eval.txt")
    assert f"{scores[-1]:.4g}"[:5] in said


def loss_and_gradients(micro_batch_size: int | None) -> tuple[Tensor, dict[str, Tensor]]:
    """Of this rank's share of eight pictures, of which three are filler."""
    sys.path.insert(0, str(EXAMPLE))  # also in ranks of their own
    try:
        objectives, models = importlib.import_module("rotnet.objective"), importlib.import_module("rotnet.model")
    finally:
        sys.path.remove(str(EXAMPLE))
    torch.manual_seed(0)
    model = models.ConvNet(num_classes=4, channels=(8, 16))
    objective = objectives.RotationPrediction(model=model, optim=None, micro_batch_size=micro_batch_size)
    image, weight = pictures()
    share, rank = len(weight) // distributed.world_size(), distributed.rank()
    batch = {"image": image[rank * share :][:share], "weight": weight[rank * share :][:share]}
    loss: Tensor = objective.training_step(batch, 0)["loss"]
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return loss.detach(), gradients


def pictures() -> tuple[Tensor, Tensor]:
    image = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return image, torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0])


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_its_loss_is_that_of_the_whole_batch_on_any_number_of_ranks(
    run_ranks: RunRanks, world_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(EXAMPLE)
    torch.manual_seed(0)
    model: nn.Module = importlib.import_module("rotnet.model").ConvNet(num_classes=4, channels=(8, 16))
    image, weight = pictures()
    real = image[weight > 0]
    turned = torch.cat([torch.rot90(real, turn, dims=(2, 3)) for turn in range(4)])
    expected = F.cross_entropy(model(turned), torch.arange(4).repeat_interleave(len(real)))
    expected.backward()
    ranks = run_ranks(world_size, loss_and_gradients, 1) if world_size > 1 else [loss_and_gradients(3)]
    torch.testing.assert_close(torch.stack([loss for loss, _ in ranks]).mean(), expected.detach(), rtol=1e-6, atol=0)
    for name, parameter in model.named_parameters():
        mean = torch.stack([gradients[name] for _, gradients in ranks]).mean(0)
        torch.testing.assert_close(mean, parameter.grad, rtol=1e-4, atol=1e-6)
