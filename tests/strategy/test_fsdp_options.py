from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_run import tiny

from mmtrain.config import compose, typed, validate
from mmtrain.errors import ConfigError, RunError
from mmtrain.run.build import Plan, build_trainer
from mmtrain.strategy.fsdp import FullyShard


def trainer_of(folder: Path, *overrides: str) -> Any:
    composed = compose(tiny(Path("data"), folder, "trainer.devices=2", "strategy=fsdp", *overrides))
    validate(composed)
    return build_trainer(typed(composed.config), Plan(2, total_steps=10, eval_every=4), folder, [])


def test_one_override_chooses_it_on_a_cpu_too(tmp_path: Path) -> None:
    strategy = trainer_of(tmp_path).strategy
    assert isinstance(strategy, FullyShard)
    assert strategy.precision_plugin.precision == "32-true", "what auto is on a CPU"


@pytest.mark.parametrize("precision", ["16-mixed", "bf16-true"])
def test_a_precision_that_would_be_another_one_is_refused(tmp_path: Path, precision: str) -> None:
    with pytest.raises((ConfigError, ValueError), match=precision):
        trainer_of(tmp_path, f"trainer.precision={precision}")


def test_ranks_that_do_not_divide_into_groups_are_refused(tmp_path: Path) -> None:
    strategy = trainer_of(tmp_path, "strategy.shard_size=3").strategy
    with pytest.raises(ConfigError, match="2 ranks do not divide into groups of 3") as caught:
        strategy._mesh()
    assert "strategy.shard_size" in str(caught.value)


def test_ranks_that_do_not_divide_into_groups_that_share_blocks_are_refused(tmp_path: Path) -> None:
    strategy = trainer_of(tmp_path, "strategy.tensor_parallel=3").strategy
    with pytest.raises(ConfigError, match="2 ranks do not divide into groups of 3") as caught:
        strategy._mesh()
    assert "strategy.tensor_parallel" in str(caught.value)


def test_lightnings_form_of_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run goes on from"):
        trainer_of(tmp_path).strategy.save_checkpoint({}, tmp_path / "x.ckpt")
