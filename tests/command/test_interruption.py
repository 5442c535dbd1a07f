"""Kills and signals of the real program: what comes out is what an undisturbed run gives."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from tiny_run import STEPS, differences, finish, kill_group, last_checkpoint, rows, start, tiny, wait_for_step


def assert_same_run(run: Path, other: Path) -> None:
    assert not differences(last_checkpoint(run), last_checkpoint(other))
    assert rows(run, but="throughput/") == rows(other, but="throughput/")


@pytest.fixture(scope="module")
def preempted(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was asked to go, about the middle. To be copied."""
    home = tmp_path_factory.mktemp("preempted")
    process = start(tiny(shapes, home / "run"), home / "said.log")
    wait_for_step(home / "run", STEPS // 3, process, home / "said.log")
    process.send_signal(signal.SIGTERM)
    said = finish(process, home / "said.log")
    assert "asked to stop" in said
    assert "python -m mmtrain resume" in said
    return home / "run"


@pytest.mark.slow
def test_three_kills_leave_no_trace(shapes: Path, finished: Path, tmp_path: Path) -> None:
    seed = int(os.environ.get("MMTRAIN_TEST_SEED", str(random.SystemRandom().randrange(10**6))))
    print(f"MMTRAIN_TEST_SEED={seed}")  # noqa: T201
    draw = random.Random(seed)
    run, log = tmp_path / "run", tmp_path / "said.log"
    command = tiny(shapes, run, "data.num_workers=1")
    for low, high in ((1, 14), (18, 30), (36, 52)):
        process = start(command, log)
        wait_for_step(run, draw.randint(low, high), process, log)
        time.sleep(draw.uniform(0, 0.1))
        assert process.poll() is None, "the run was over before it was killed"
        process.kill()  # and not its worker: an orphan must not keep the run locked
        process.wait()
    said = finish(start(command, log), log)
    assert "going on at step" in said
    assert_same_run(run, finished)


@pytest.mark.slow
def test_a_preempted_run_resumes_as_if_nothing_had_happened(preempted: Path, finished: Path, tmp_path: Path) -> None:
    step = int((preempted / "REQUEUE").read_text())
    assert STEPS // 3 <= step < STEPS
    checkpoint = last_checkpoint(preempted)
    assert checkpoint["global_step"] == step
    assert checkpoint["DataModule"]["samples"] == step * 16 % 64, "the one position in the data"
    assert checkpoint["loops"]["fit_loop"]["state_dict"] == {}, "and Lightning holds no other"
    run = Path(shutil.copytree(preempted, tmp_path / "lr=1, moved here"))
    said = finish(start(["resume", str(run)], tmp_path / "said.log"), tmp_path / "said.log")
    assert f"going on at step {step} of {STEPS}" in said
    assert not (run / "REQUEUE").exists()
    assert (run / "DONE").exists()
    assert_same_run(run, finished)


@pytest.mark.slow
def test_a_run_goes_on_alike_on_other_ranks_workers_and_chunks(preempted: Path, finished: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(preempted, tmp_path / "run"))
    elsewhere = ["trainer.devices=2", "strategy=ddp", "data.num_workers=2", "data.micro_batch_size=4"]
    elsewhere += ["~callback.retrievals"]  # every rank composes this, on top of the origin that rank 0 may write
    finish(start(["resume", str(run), *elsewhere], tmp_path / "said.log"), tmp_path / "said.log")
    found, expected = (rows(path, but="throughput/") for path in (run, finished))
    assert [row["step"] for row in found] == [row["step"] for row in expected]
    losses, expected_losses = ([row.get("train/loss", 0.0) for row in table] for table in (found, expected))
    # Rounding differs, and grows from step to step; another order of samples changes losses by a tenth.
    assert losses == pytest.approx(expected_losses, rel=1e-4, abs=1e-5)
    assert last_checkpoint(run)["DataModule"] == last_checkpoint(finished)["DataModule"]


@pytest.mark.slow
def test_a_killed_rank_ends_the_job_which_then_resumes_exactly(shapes: Path, tmp_path: Path) -> None:
    two = ["trainer.devices=2", "strategy=ddp", "budget.samples=480"]
    whole, killed, log = tmp_path / "whole", tmp_path / "killed", tmp_path / "said.log"
    finish(start(tiny(shapes, whole, *two), log), log)
    process = start(tiny(shapes, killed, *two), log)
    wait_for_step(killed, 12, process, log)
    os.kill(_rank_one(process), signal.SIGKILL)
    try:
        assert process.wait(timeout=60) != 0
    finally:
        if process.poll() is None:
            kill_group(process)
    assert not (killed / "DONE").exists()
    finish(start(tiny(shapes, killed, *two), log), log)
    assert_same_run(killed, whole)


def _rank_one(process: subprocess.Popen[bytes]) -> int:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == process.pid and b"\0LOCAL_RANK=1\0" in b"\0" + (folder / "environ").read_bytes():
                return int(folder.name)
        except OSError:
            continue
    raise AssertionError("there is no process of rank 1")
