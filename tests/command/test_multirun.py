"""Hydra's own multirun: jobs are told their mistakes before, and train in directories of their own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tiny_run import Program, finish, rows, start, tiny

BASE = "experiment=clip_emoji"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("seed=1,2", "optim.lrr=1"), "did you mean 'lr'?"),
        (("seed=one,two",), "seed: 'one'"),
        (("seed=1,2", "optim.lr=[1"), "cannot be read"),
        (("experiment=clip_emojii", "seed=1,2"), "did you mean 'clip_emoji'?"),
        (("seed=1,2", "trainer.devices=2"), "Hydra starts a job as one process, and this one needs 2"),
        (("seed=1,2", "hydra/launcher=no_such"), "Could not find 'hydra/launcher/no_such'"),
    ],
)
def test_a_mistake_is_told_and_nothing_trains(
    program: Program, monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...], said: str
) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # which the command sets, as it does the other
    monkeypatch.setenv("SUBMITIT_PREEMPT_SIGNAL", "USR1")
    before = sys.argv
    done = program("multirun", BASE, *overrides)
    assert (done.status, said in done.err) == (1, True), done.err
    assert sys.argv is before
    assert not Path("runs").exists()


@pytest.mark.slow
def test_each_job_trains_in_its_own_directory_with_the_users_own_configs(shapes: Path, tmp_path: Path) -> None:
    own = tmp_path / "it's, mine" / "experiment"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text("# @package _global_\ndefaults: [clip_emoji, _self_]\nname: mine\n")
    _, *lines = tiny(shapes, tmp_path / "run_${seed}", "budget.samples=96", "+callback.ema.decay=0.9")
    log = tmp_path / "said.log"
    command = ["multirun", "--config-dir", str(own.parent), "experiment=mine", *lines, "seed=1,2"]
    finish(start([*command, "+callback.ema._target_=mmtrain.callback.ema.Ema"], log), log)
    losses = [[row["train/loss"] for row in rows(tmp_path / f"run_{seed}") if "train/loss" in row] for seed in (1, 2)]
    assert [len(values) for values in losses] == [6, 6]
    assert losses[0] != losses[1]
    assert "name: mine" in (tmp_path / "run_2" / "config.yaml").read_text()
