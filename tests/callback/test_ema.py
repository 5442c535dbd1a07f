"""Averaged weights: what they are, when the model has them, and where they are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from toy_run import ToyModule, rows_of, train

from mmtrain.callback.checkpoint_io import latest_checkpoint
from mmtrain.callback.ema import Ema, averaged_weights
from mmtrain.errors import ConfigError


class Watch(pl.Callback):
    """Parameters after each step, and those that an evaluation runs with."""

    def __init__(self) -> None:
        self.trained: dict[int, dict[str, Tensor]] = {}
        self.evaluated: dict[int, dict[str, Tensor]] = {}
        self.after_evaluation: dict[int, dict[str, Tensor]] = {}

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self.trained[trainer.global_step] = _weights(pl_module)

    def on_validation_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self.evaluated[trainer.global_step] = _weights(pl_module)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self.after_evaluation[trainer.global_step] = _weights(pl_module)


def _weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in module.state_dict().items()}


def checkpoint_of(directory: Path) -> dict[str, Any]:
    path = latest_checkpoint(directory / "checkpoints")
    assert path is not None
    checkpoint: dict[str, Any] = torch.load(path, weights_only=True)
    return checkpoint


@pytest.mark.parametrize("warmup", [False, True])
def test_the_average_is_that_of_its_formula(tmp_path: Path, warmup: bool) -> None:
    watch = Watch()
    train(tmp_path, max_steps=6, ema={"decay": 0.4, "warmup": warmup}, extra=[watch])
    expected = {name: weight.double() for name, weight in _weights(ToyModule()).items()}
    for step in range(1, 7):
        decay = min(0.4, (1 + step) / (10 + step)) if warmup else 0.4
        for name, weight in watch.trained[step].items():
            expected[name] = decay * expected[name] + (1 - decay) * weight.double()
    for name, average in checkpoint_of(tmp_path)["callbacks"]["Ema"]["average"].items():
        torch.testing.assert_close(average.double(), expected[name], atol=1e-6, rtol=1e-6)


def test_the_model_is_evaluated_with_the_average_and_trains_on_from_its_own_weights(tmp_path: Path) -> None:
    watch, free = Watch(), Watch()
    train(tmp_path / "averaged", max_steps=7, eval_every=3, ema={"decay": 0.5}, extra=[watch])
    train(tmp_path / "free", max_steps=7, eval_every=3, extra=[free])
    for step, weights in free.trained.items():
        assert all(torch.equal(watch.trained[step][name], weight) for name, weight in weights.items())
    for step in (3, 6):
        assert all(torch.equal(w, watch.trained[step][n]) for n, w in watch.after_evaluation[step].items())
        assert not any(torch.equal(w, watch.trained[step][n]) for n, w in watch.evaluated[step].items())
    averaged, plain = ([r for r in rows_of(tmp_path / name) if "eval/new/mean" in r] for name in ("averaged", "free"))
    assert all(a["eval/new/mean"] != b["eval/new/mean"] for a, b in zip(averaged, plain, strict=True))


def test_the_weights_in_a_checkpoint_are_those_that_its_evaluation_had(tmp_path: Path) -> None:
    watch = Watch()
    train(tmp_path, max_steps=6, eval_every=3, ema={"decay": 0.5}, extra=[watch])
    checkpoint = checkpoint_of(tmp_path)
    averaged = averaged_weights(checkpoint)
    assert averaged is not None and averaged.keys() == checkpoint["state_dict"].keys()
    for name, weight in averaged.items():
        assert torch.equal(weight, watch.evaluated[6][name])
        assert torch.equal(checkpoint["state_dict"][name], watch.trained[6][name])
    ToyModule().load_state_dict(averaged)


def test_a_run_without_average_has_none(tmp_path: Path) -> None:
    train(tmp_path, max_steps=2)
    assert averaged_weights(checkpoint_of(tmp_path)) is None


class Tied(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head, self.frozen = nn.Embedding(4, 3), nn.Linear(3, 4, bias=False), nn.Linear(3, 3)
        self.head.weight = self.embed.weight
        self.frozen.requires_grad_(False)


def test_tied_parameters_move_once_and_frozen_ones_are_the_models() -> None:
    module, ema = Tied().bfloat16(), Ema(decay=0.5, warmup=False)
    trainer: Any = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    ema.on_train_start(trainer, module)
    before = module.embed.weight.detach().clone()
    module.embed.weight.data.add_(1.0)
    ema.on_train_batch_end(trainer, module, None, None, 0)
    state = ema.state_dict()
    assert state["average"].keys() == {"embed.weight", "head.weight"}
    assert state["average"]["embed.weight"].dtype == torch.float32
    expected = (before.float() + module.embed.weight.float()) / 2
    torch.testing.assert_close(state["average"]["head.weight"], expected)

    weights = averaged_weights({"callbacks": {"Ema": state}, "state_dict": module.state_dict()})
    assert weights is not None and torch.equal(weights["embed.weight"], weights["head.weight"])
    assert weights["head.weight"].dtype == torch.bfloat16
    assert torch.equal(weights["frozen.weight"], module.frozen.weight)


def test_a_decay_that_forgets_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"decay=1\.0"):
        Ema(decay=1.0)
