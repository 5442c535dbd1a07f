"""What the program derives from a config before it builds: ranks, steps, numerics, weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy
from tiny_run import tiny

from mmtrain.config import Root, compose, typed, validate
from mmtrain.errors import ConfigError
from mmtrain.run.build import (
    Plan,
    build_data,
    build_loggers,
    build_objective,
    build_trainer,
    data_parallel_size,
    plan_run,
    resolve_precision,
    world_size,
)


def config_of(shapes: Path, *overrides: str) -> Root:
    composed = compose(tiny(shapes, Path("run"), *overrides))
    validate(composed)
    return typed(composed.config)


def trainer_of(config: Root, directory: Path, world: int = 1) -> Any:
    return build_trainer(config, Plan(world, total_steps=10, eval_every=4), directory, [])


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["trainer.devices=2"], 2),
        (["trainer.devices=2", "trainer.num_nodes=4"], 8),
        (["trainer.devices=auto"], 1),
    ],
)
def test_the_world_is_devices_times_nodes(shapes: Path, overrides: list[str], expected: int) -> None:
    assert world_size(config_of(shapes, *overrides)) == expected


def test_a_batch_is_cut_by_the_groups_that_share_blocks(shapes: Path) -> None:
    shared = ["strategy=fsdp", "strategy.tensor_parallel=4", "trainer.devices=8"]
    assert data_parallel_size(config_of(shapes, *shared)) == 2
    assert data_parallel_size(config_of(shapes, "strategy=ddp", "trainer.devices=8")) == 8
    build_data(config_of(shapes, *shared, "data.global_batch_size=2"))
    with pytest.raises(ConfigError, match="does not divide over 2 ranks"):
        build_data(config_of(shapes, *shared, "data.global_batch_size=3"))
    with pytest.raises(ConfigError, match="6 ranks do not divide into groups of 4") as error:
        build_data(config_of(shapes, *shared, "trainer.devices=6"))
    with pytest.raises(ConfigError, match="8 ranks do not divide into groups of 0"):
        build_data(config_of(shapes, *shared, "strategy.tensor_parallel=0"))
    assert error.value.mend == "set a divisor of 6; or trainer.devices to a multiple of 4"


@pytest.mark.parametrize(
    ("budget", "eval_every", "expected"),
    [
        ({"epochs": 3}, None, (12, 4)),
        ({"samples": 64}, None, (4, 4)),
        ({"samples": 65}, 3, (5, 3)),
        ({"samples": 33}, None, (3, 3)),
    ],
)
def test_steps_follow_from_the_budget_and_the_last_one_is_evaluated(
    shapes: Path, budget: Mapping[str, int], eval_every: int | None, expected: tuple[int, int]
) -> None:
    lines = [f"budget.{kind}={budget.get(kind, 'null')}" for kind in ("epochs", "samples", "tokens")]
    every = "null" if eval_every is None else eval_every
    plan = plan_run(config_of(shapes, *lines, f"trainer.eval_every_n_steps={every}"), steps_per_epoch=4)
    assert (plan.total_steps, plan.eval_every) == expected


def test_a_budget_of_tokens_counts_those_of_the_samples(shapes: Path) -> None:
    config = config_of(shapes, "budget.samples=null", "budget.tokens=3201")
    assert plan_run(config, steps_per_epoch=4, tokens_per_sample=10).total_steps == 3201 // (10 * 16) + 1
    with pytest.raises(ConfigError, match="no number of tokens a sample"):
        plan_run(config, steps_per_epoch=4)


def test_a_batch_that_does_not_divide_is_refused_before_the_data_is_opened(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not divide over 3 ranks"):
        build_data(config_of(tmp_path / "nowhere", "trainer.devices=3"))


def test_weights_are_a_function_of_the_seed_alone(shapes: Path) -> None:
    first = build_objective(config_of(shapes)).state_dict()
    torch.rand(3)
    same = build_objective(config_of(shapes, "data.num_workers=1", "data.micro_batch_size=4")).state_dict()
    other = build_objective(config_of(shapes, "seed=1")).state_dict()
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert not torch.equal(first["model.text.positions"], other["model.text.positions"])


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["trainer.precision=auto"], "32-true"),
        (["trainer.precision=bf16-mixed"], "bf16-mixed"),
    ],
)
def test_auto_is_full_precision_on_a_cpu(shapes: Path, overrides: list[str], expected: str) -> None:
    assert resolve_precision(config_of(shapes, *overrides)) == expected


def test_auto_is_bf16_on_a_gpu(shapes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_precision(config_of(shapes, "trainer.accelerator=auto")) == "bf16-mixed"
    assert resolve_precision(config_of(shapes, "trainer.accelerator=cpu")) == "32-true"


def test_the_trainer_has_the_callbacks_of_the_config_and_none_of_lightnings(shapes: Path, tmp_path: Path) -> None:
    own = ["StepSeed", "Recorder", "FinalEvaluation"]
    trainer = trainer_of(config_of(shapes), tmp_path)
    chosen = ["Throughput", "RunProgress", "Preemption", "Watchdog", "Faults", "Guard", "Retrievals", "Checkpoint"]
    assert [type(callback).__name__ for callback in trainer.callbacks] == [*own, *chosen]
    names = ("checkpoint", "throughput", "progress", "preemption", "watchdog", "faults", "guard", "retrievals")
    nothing = [f"callback.{name}=null" for name in names]
    trainer = trainer_of(config_of(shapes, *nothing), tmp_path)
    assert [type(callback).__name__ for callback in trainer.callbacks] == own


def test_a_step_is_a_batch_whatever_the_micro_batch(shapes: Path, tmp_path: Path) -> None:
    trainer = trainer_of(config_of(shapes, "data.micro_batch_size=4"), tmp_path)
    assert trainer.accumulate_grad_batches == 1
    assert (trainer.max_steps, trainer.val_check_interval, trainer.gradient_clip_val) == (10, 4, 1.0)


def test_ddp_keeps_gradients_in_its_buckets(shapes: Path, tmp_path: Path) -> None:
    trainer = trainer_of(config_of(shapes, "strategy=ddp", "trainer.devices=2"), tmp_path, world=2)
    assert isinstance(trainer.strategy, DDPStrategy)
    assert trainer.strategy._ddp_kwargs["gradient_as_bucket_view"] is True
    assert trainer.world_size == 2


def test_loggers_are_the_record_and_those_of_the_config(shapes: Path, tmp_path: Path) -> None:
    def names(*overrides: str) -> list[str]:
        loggers = build_loggers(config_of(shapes, *overrides), {}, tmp_path, resume_step=0)
        return [type(logger).__name__ for logger in loggers]

    assert names("logger=none") == ["JsonlLogger"]
    assert names("logger=wandb") == ["JsonlLogger", "WandbLogger"]
    assert names("logger=tensorboard") == ["JsonlLogger", "TensorBoardLogger"]
    assert names("logger=wandb", "logger.wandb=null") == ["JsonlLogger"]
