"""A search as one array: its tasks, on both nodes, draw from one journal and tell it what came out."""

from __future__ import annotations

import json
from pathlib import Path

import optuna
import pytest
from cluster import Cluster, wait_until
from omegaconf import OmegaConf
from tiny_run import finish, rows, start, tiny

TRIALS = 3
METRIC = "eval/new_style/loss"


@pytest.mark.slow
def test_tasks_of_an_array_share_a_study_and_each_trial_is_told_once(
    cluster: Cluster, shapes: Path, tmp_path: Path
) -> None:
    shared = [
        line for line in tiny(shapes, tmp_path, "budget.samples=320") if not line.startswith(("run.dir", "optim.lr"))
    ]
    command = ["sweep", *shared, "optim.lr=tag(log,interval(1e-4,1e-2))", "--name", "lr"]
    command += ["--search", "tpe", "--trials", str(TRIALS), "--metric", METRIC, "--mode", "min", "--slurm"]
    said = finish(start(command, tmp_path / "said.log", **cluster.environment), tmp_path / "said.log")
    job, sweep = said.partition("submitted job ")[2].partition(":")[0], tmp_path / "sweeps" / "lr"
    elements = [f"{job}_{index}" for index in range(TRIALS)]
    for element in elements:
        wait_until(lambda element=element: cluster.state(element) == "COMPLETED", f"{element} is done", 180)

    assert {cluster.field(element, "NodeList") for element in elements} == {"n1", "n2"}
    journal = optuna.storages.journal.JournalFileBackend(str(sweep / "journal.log"))
    study = optuna.load_study(study_name=None, storage=optuna.storages.JournalStorage(journal))
    told = {trial.number: trial for trial in study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))}
    assert len(study.get_trials()) == len(told) == TRIALS
    rates = set()
    for index in range(TRIALS):
        drawn = json.loads((sweep / "trials" / f"{index:04d}.json").read_text())
        trial, run = told.pop(drawn["number"]), sweep / "runs" / f"trial={index:04d}"
        rate = trial.params["optim.lr"]
        assert [float(override.removeprefix("optim.lr=")) for override in drawn["overrides"]] == [rate]
        assert trial.value == min(row[METRIC] for row in rows(run) if METRIC in row)
        assert OmegaConf.load(run / "config.yaml").optim.lr == rate
        rates.add(rate)
    assert len(rates) == TRIALS
    status = finish(
        start(["sweep", "status", "sweeps/lr"], tmp_path / "status.log", **cluster.environment),
        tmp_path / "status.log",
    )
    assert "sweeps/lr: 3 done" in status
    assert f"best {METRIC}: {study.best_value:.4}"[:-1] in status
