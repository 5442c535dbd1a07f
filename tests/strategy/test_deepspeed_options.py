from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import clip_case
import lm_case
import pytest
import torch
from tiny_run import tiny

from mmtrain.config import compose, typed, validate
from mmtrain.errors import ConfigError
from mmtrain.optim.muon import Muon
from mmtrain.run.build import Plan, build_trainer
from mmtrain.strategy.deepspeed import Zero, deepspeed
from mmtrain.strategy.deepspeed_state import part_of

needs_deepspeed = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="needs DeepSpeed")


def trainer_of(folder: Path, *overrides: str) -> Any:
    composed = compose(tiny(Path("data"), folder, "trainer.devices=2", *overrides))
    validate(composed)
    return build_trainer(typed(composed.config), Plan(2, total_steps=10, eval_every=4), folder, [])


@needs_deepspeed
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_one_override_chooses_the_stage(tmp_path: Path, stage: int) -> None:
    strategy = trainer_of(tmp_path, f"strategy=deepspeed_zero{stage}").strategy
    assert isinstance(strategy, Zero)
    assert strategy.config is not None
    assert strategy.config["zero_optimization"]["stage"] == stage
    assert strategy.precision_plugin.precision == "32-true", "what auto is on a CPU"


@needs_deepspeed
@pytest.mark.parametrize("precision", ["16-mixed", "16-true"])
def test_a_precision_that_would_be_another_one_is_refused(tmp_path: Path, precision: str) -> None:
    with pytest.raises(ConfigError, match=precision):
        trainer_of(tmp_path, "strategy=deepspeed_zero2", f"trainer.precision={precision}")


def test_without_the_library_the_mend_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError) as caught:
        deepspeed(stage=2)
    assert "mmtrain[deepspeed]" in str(caught.value)


@needs_deepspeed
def test_weights_are_offloaded_by_the_stage_that_partitions_them() -> None:
    with pytest.raises(ConfigError, match="ZeRO-2 has the weights whole"):
        deepspeed(stage=2, offload_parameters=True)


@needs_deepspeed
def test_an_optimizer_of_whole_matrices_is_refused() -> None:
    muon = Muon(lr=1e-3, rest=clip_case.recipe())
    strategy = _of(deepspeed(stage=1), clip_case.small_objective(optim=muon), clip_case)
    with pytest.raises(ConfigError, match="needs matrices") as caught:
        strategy._init_optimizers()
    assert "strategy=fsdp" in str(caught.value)


@needs_deepspeed
def test_micro_batches_are_refused_where_gradients_cannot_be_added_up() -> None:
    strategy = _of(deepspeed(stage=3), lm_case.small_objective(micro_batch_size=2), lm_case)
    with pytest.raises(ConfigError, match="micro-batches"):
        strategy.init_deepspeed()


def test_parts_of_a_tensor_put_together_are_the_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = torch.arange(1.0, 8.0).reshape(1, 7), []
    for rank in range(4):
        monkeypatch.setattr("torch.distributed.get_rank", lambda group, rank=rank: rank)
        parts.append(part_of(whole, 2, None))  # type: ignore[arg-type]
    assert torch.cat(parts).tolist() == [*whole.flatten().tolist(), 0.0]


def _of(strategy: Zero, objective: Any, case: Any) -> Zero:
    trainer = case.trainer(3, strategy=strategy, devices=2)
    strategy._lightning_module = objective
    objective.trainer = trainer
    return strategy
