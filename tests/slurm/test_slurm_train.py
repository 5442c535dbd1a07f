"""``slurm/train.sbatch`` on two nodes: what is preempted, and what dies, goes on and ends the same bit by bit."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
from cluster import KILL_WAIT_S, Cluster, wait_until
from tiny_run import ROOT, differences, last_checkpoint, rows, tiny

TRAIN = ROOT / "slurm" / "train.sbatch"
TWO_NODES = ("--nodes=2", "--ntasks-per-node=1")
STEPS = 40


def arguments(shapes: Path, run: Path) -> list[str]:
    more = ["strategy=fsdp", f"budget.samples={16 * STEPS}", "callback.preemption.every_n_steps=3", "logger=wandb"]
    return tiny(shapes, run, *more)


def said(home: Path, job: str) -> str:
    path = home / f"slurm-{job}.out"
    return path.read_text(errors="replace") if path.exists() else "(nothing)"


def wait_for_row(cluster: Cluster, home: Path, job: str, run: Path, step: int) -> None:
    def is_there() -> bool:
        assert cluster.state(job) in ("PENDING", "CONFIGURING", "RUNNING"), said(home, job)
        return any(row["step"] >= step for row in rows(run))

    wait_until(is_there, f"step {step} in {run}: {said(home, job)}", 120)


def wait_for_state(cluster: Cluster, home: Path, job: str, state: str, seconds: float = 120) -> None:
    wait_until(lambda: cluster.state(job) == state, f"job {job} is {state}", seconds)


def process_of_rank(job: str, rank: int) -> int:
    """The training process of a rank of a job."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes().split(b"\0")
            command = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        wanted = {f"SLURM_JOB_ID={job}".encode(), f"SLURM_PROCID={rank}".encode(), b"SLURM_STEP_ID=0"}
        if wanted <= set(environment) and command[1:3] == [b"-m", b"mmtrain"]:
            return int(folder.name)
    raise AssertionError(f"job {job} has no process of rank {rank}")


@pytest.mark.slow
def test_a_preempted_and_then_killed_job_ends_as_if_nothing_had_happened(
    cluster: Cluster, shapes: Path, tmp_path: Path
) -> None:
    seed = int(os.environ.get("MMTRAIN_TEST_SEED", str(random.SystemRandom().randrange(10**6))))
    print(f"MMTRAIN_TEST_SEED={seed}")  # noqa: T201
    draw = random.Random(seed)
    whole, run = tmp_path / "whole", tmp_path / "run"

    reference = cluster.submit(*TWO_NODES, TRAIN, *arguments(shapes, whole), cwd=tmp_path)
    job = cluster.submit(*TWO_NODES, TRAIN, *arguments(shapes, run), cwd=tmp_path)
    wait_for_row(cluster, tmp_path, job, run, draw.randint(2, 12))
    cluster.run("scancel", "--signal=USR1", job)
    wait_for_state(cluster, tmp_path, job, "PENDING")
    assert cluster.field(job, "Restarts") == "1"
    preempted_at = int((run / "REQUEUE").read_text())
    assert preempted_at < STEPS

    wait_for_state(cluster, tmp_path, reference, "COMPLETED")
    cluster.start_now(job)
    wait_for_row(cluster, tmp_path, job, run, preempted_at + draw.randint(6, 12))
    os.kill(process_of_rank(job, 1), signal.SIGKILL)
    killed = time.monotonic()
    wait_until(lambda: cluster.field(job, "Restarts") == "2", "the job is queued again", 90)
    took = time.monotonic() - killed
    assert took < 30 + KILL_WAIT_S, f"{took:.0f} s: {said(tmp_path, job)}"
    assert not (run / "REQUEUE").exists()

    cluster.start_now(job)
    wait_for_state(cluster, tmp_path, job, "COMPLETED")
    assert (run / "DONE").exists()
    assert f"going on at step {preempted_at} of {STEPS}" in said(tmp_path, job)
    assert not differences(last_checkpoint(run), last_checkpoint(whole))
    assert rows(run, but="throughput/") == rows(whole, but="throughput/")
    segments = [path.name for path in (run / "wandb").glob("offline-run-*")]
    assert (len(segments), len({name.rpartition("-")[2] for name in segments})) == (3, 1), "one W&B run"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["run", "whole", f"slurm-{job}.out", f"slurm-{reference}.out"]
    )
