"""A sweep as one array: ``slurm/array.sbatch`` runs each job once, also where one is preempted."""

from __future__ import annotations

from pathlib import Path

import pytest
from cluster import Cluster, wait_until
from tiny_run import finish, rows, start, tiny

SEEDS = (1, 2, 3, 4)
STEPS = 120


@pytest.mark.slow
def test_all_jobs_of_an_array_finish_once_and_the_preempted_one_goes_on(
    cluster: Cluster, shapes: Path, tmp_path: Path
) -> None:
    length = [f"budget.samples={16 * STEPS}", "trainer.eval_every_n_steps=40"]
    shared = [line for line in tiny(shapes, tmp_path, *length) if not line.startswith("run.dir")]
    command = ["sweep", *shared, f"seed={','.join(map(str, SEEDS))}", "--name", "four", "--slurm"]
    said = finish(start(command, tmp_path / "said.log", **cluster.environment), tmp_path / "said.log")
    job = said.partition("submitted job ")[2].partition(":")[0]
    runs = {seed: tmp_path / "sweeps" / "four" / "runs" / f"seed={seed}" for seed in SEEDS}
    elements = [f"{job}_{index}" for index in range(len(SEEDS))]

    wait_until(lambda: any(row["step"] >= 4 for row in rows(runs[3])), "the third job trains", 120)
    cluster.run("scancel", "--signal=USR1", elements[2])
    wait_until(lambda: cluster.state(elements[2]) == "PENDING", "the third job is queued again", 60)
    preempted_at = int((runs[3] / "REQUEUE").read_text())
    again = finish(start(command, tmp_path / "again.log", **cluster.environment), tmp_path / "again.log")
    assert "1 preempted" in again
    assert "nothing is to run" in again, "it waits in the queue, and is not submitted twice"
    if cluster.state(elements[2]) == "PENDING":  # and the command took less than the two minutes for which it waits
        cluster.start_now(elements[2])
    for element in elements:
        wait_until(lambda element=element: cluster.state(element) == "COMPLETED", f"{element} is done", 120)

    assert [cluster.field(element, "Restarts") for element in elements] == ["0", "0", "1", "0"]
    for seed, run in runs.items():
        starts = [
            line for line in (run / "log.txt").read_text().splitlines() if f"in {run.relative_to(tmp_path)}" in line
        ]
        assert (run / "DONE").exists()
        assert len(starts) == (2 if seed == 3 else 1)
        trained = [row["step"] for row in rows(run) if "train/loss" in row]
        assert trained == list(range(1, STEPS + 1)), "each step once"
    assert f"going on at step {preempted_at} of {STEPS}" in (runs[3] / "log.txt").read_text()
    assert len((tmp_path / "sweeps" / "four" / "submissions.jsonl").read_text().splitlines()) == 1
    status = start(["sweep", "status", "sweeps/four"], tmp_path / "status.log", **cluster.environment)
    assert "sweeps/four: 4 done" in finish(status, tmp_path / "status.log")
