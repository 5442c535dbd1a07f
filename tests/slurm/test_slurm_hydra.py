"""Hydra's multirun through submitit, on the real cluster."""

from __future__ import annotations

from pathlib import Path

import pytest
from cluster import Cluster, wait_until
from tiny_run import differences, kill_group, last_checkpoint, rows, start, tiny

pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
STEPS = 120


@pytest.mark.slow
def test_a_multirun_of_two_jobs_survives_the_preemption_of_one(cluster: Cluster, shapes: Path, tmp_path: Path) -> None:
    shared = tiny(shapes, tmp_path / "run_${seed}", f"budget.samples={16 * STEPS}", "trainer.eval_every_n_steps=40")
    resources = ["hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.timeout_min=10"]
    process = start(["multirun", *shared, *resources, "seed=1,2"], tmp_path / "said.log", **cluster.environment)
    try:
        wait_until(lambda: any(row["step"] >= 5 for row in rows(tmp_path / "run_2")), "the second job trains", 120)
        job = next(line for line in cluster.run("squeue", "-h", "-r", "-o", "%i").split() if line.endswith("_1"))
        cluster.run("scancel", "--signal=USR1", job)
        wait_until(lambda: cluster.state(job) == "PENDING", "the second job is queued again", 60)
        assert 5 <= int((tmp_path / "run_2" / "REQUEUE").read_text()) < STEPS
        cluster.start_now(job)
        wait_until(lambda: process.poll() is not None, "the multirun ends", 200)
    finally:
        if process.poll() is None:
            kill_group(process)
    assert process.returncode == 0, (tmp_path / "said.log").read_text()[-4000:]
    assert all((tmp_path / f"run_{seed}" / "DONE").exists() for seed in (1, 2))
    assert differences(last_checkpoint(tmp_path / "run_1"), last_checkpoint(tmp_path / "run_2"))
    assert cluster.field(job, "Restarts") == "1"
