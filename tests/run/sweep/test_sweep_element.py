"""A job as it is composed in its own process: as it was planned, in its directory, in the sweep's group."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmtrain.errors import RunError
from mmtrain.run.sweep.element import composed_element
from mmtrain.run.sweep.plan import Sweep
from mmtrain.run.sweep.planner import Wanted, plan_grid

EXPERIMENT = "# @package _global_\ndefaults: [clip_emoji, _self_]\nname: mine\noptim: {{lr: {lr}}}\n"


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine" / "experiment" / "mine.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(EXPERIMENT.format(lr=0.001))
    return path


def plan(*overrides: str) -> Sweep:
    return plan_grid(Wanted(("experiment=mine", *overrides), None, (Path("mine"),)), lambda done: None).sweep


def test_a_job_has_its_values_its_name_its_directory_and_the_sweeps_group(mine: Path) -> None:
    sweep = plan("data.root='a,b'", "seed=1,2")
    composed = composed_element(sweep, sweep.element(1))
    assert composed.config["seed"] == 2
    assert composed.config["data"]["root"] == "a,b"
    assert composed.config["name"] == "seed=2"
    assert composed.config["run"]["dir"] == "sweeps/mine/runs/seed=2"
    assert composed.config["logger"]["wandb"]["group"] == "mine"


def test_a_group_of_the_users_own_and_a_logger_without_groups_stay(mine: Path) -> None:
    grouped = plan("seed=1,2", "logger.wandb.group=paper")
    assert composed_element(grouped, grouped.element(0)).config["logger"]["wandb"]["group"] == "paper"
    alone = plan("seed=1,2", "logger=tensorboard")
    assert "group" not in str(composed_element(alone, alone.element(0)).config["logger"])


def test_what_a_search_drew_is_set_last(mine: Path) -> None:
    sweep = plan("seed=1,2")
    composed = composed_element(sweep, sweep.element(0), ["optim.lr=0.5"])
    assert composed.config["optim"]["lr"] == 0.5


def test_config_files_that_were_changed_since_the_plan_are_told_and_nothing_is_trained(mine: Path) -> None:
    sweep = plan("seed=1,2")
    mine.write_text(EXPERIMENT.format(lr=0.002))
    with pytest.raises(RunError, match="planned with another config") as error:
        composed_element(sweep, sweep.element(1))
    assert "optim.lr: 0.001 -> 0.002" in str(error.value)
    mine.write_text(EXPERIMENT.format(lr=0.001) + "trainer: {threads: 2}\n")
    assert composed_element(sweep, sweep.element(1)).config["trainer"]["threads"] == 2
