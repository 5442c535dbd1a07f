"""Real kills and real signals."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_run import differences, rows_of, train

from mmtrain.callback.checkpoint_io import latest_checkpoint, read_record

SCRIPT = Path(__file__).with_name("toy_run.py")
ROOT = Path(__file__).parents[2]


def start(directory: Path, options: dict[str, Any], **environment: str) -> subprocess.Popen[bytes]:
    variables = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment
    command = [sys.executable, str(SCRIPT), str(directory), json.dumps(options)]
    log = directory.parent / f"{directory.name}.log"
    with log.open("ab") as file:
        return subprocess.Popen(command, env=variables, stdout=file, stderr=file)


def finish(process: subprocess.Popen[bytes], directory: Path) -> None:
    log = directory.parent / f"{directory.name}.log"
    assert process.wait(timeout=120) == 0, log.read_text()[-3000:]


def wait_for_step(directory: Path, step: int, process: subprocess.Popen[bytes]) -> None:
    metrics = directory / "metrics.jsonl"
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        if metrics.exists() and any(row["step"] >= step for row in rows_of_torn(metrics)):
            return
        time.sleep(0.005)
    raise AssertionError(
        f"step {step} was not reached: {(directory.parent / (directory.name + '.log')).read_text()[-3000:]}"
    )


def rows_of_torn(metrics: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in metrics.read_bytes().split(b"\n")[:-1]]


def final_checkpoint(directory: Path) -> dict[str, Any]:
    path = latest_checkpoint(directory / "checkpoints")
    assert path is not None
    checkpoint: dict[str, Any] = torch.load(path, weights_only=True)
    return checkpoint


PLAIN: dict[str, Any] = {}
GUARDED = {"guard": {"spike_factor": 3.0, "window": 8}, "ema": {"decay": 0.9}, "module": {"poisoned": [5, 17, 30]}}


@pytest.mark.slow
@pytest.mark.parametrize("more", [PLAIN, GUARDED], ids=["plain", "guarded"])
def test_resume_is_bit_exact_after_three_kills(tmp_path: Path, more: dict[str, Any]) -> None:
    options: dict[str, Any] = {"max_steps": 41, "steps_per_epoch": 7, "eval_every": 5, "save_every": 3, **more}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(whole, **options)

    draw = random.Random(0)
    for low, high in ((4, 10), (14, 22), (26, 36)):
        process = start(killed, options | {"seconds_per_step": 0.03})
        wait_for_step(killed, draw.randint(low, high), process)
        time.sleep(draw.uniform(0, 0.06))
        process.kill()
        process.wait()
    assert len(rows_of_torn(killed / "metrics.jsonl")) < len(rows_of_torn(whole / "metrics.jsonl"))
    train(killed, **options)

    assert not differences(final_checkpoint(whole), final_checkpoint(killed))
    assert rows_of(killed) == rows_of(whole)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_marks_and_stops_and_the_rest_is_exact(tmp_path: Path, number: signal.Signals) -> None:
    options: dict[str, Any] = {"max_steps": 31, "steps_per_epoch": 7, "eval_every": 2, "save_every": None}
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(whole, **options)
    process = start(stopped, options | {"seconds_per_step": 0.05})
    wait_for_step(stopped, 5, process)
    process.send_signal(number)
    finish(process, stopped)
    step = int((stopped / "REQUEUE").read_text())
    latest = latest_checkpoint(stopped / "checkpoints")
    assert 5 <= step < 31 and latest is not None and read_record(latest).step == step  # type: ignore[union-attr]

    train(stopped, **options)
    assert not (stopped / "REQUEUE").exists()
    assert not differences(final_checkpoint(whole), final_checkpoint(stopped))
    assert rows_of(stopped) == rows_of(whole)


@pytest.mark.slow
def test_a_signal_to_one_rank_stops_all_ranks_at_the_same_step(tmp_path: Path) -> None:
    options: dict[str, Any] = {"max_steps": 61, "steps_per_epoch": 7, "eval_every": 6, "save_every": None, "devices": 2}
    options |= {"strategy": "ddp", "seconds_per_step": 0.03}
    run = tmp_path / "run"
    with_port = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(20000 + os.getpid() % 20000), "WORLD_SIZE": "2"}
    ranks = [start(run, options, RANK=str(r), LOCAL_RANK=str(r), **with_port) for r in range(2)]
    wait_for_step(run, 8, ranks[0])
    ranks[1].send_signal(signal.SIGTERM)
    for process in ranks:
        finish(process, run)
    step = int((run / "REQUEUE").read_text())
    assert step % 2 == 0 and 8 <= step < 61
    checkpoint = final_checkpoint(run)
    assert checkpoint["global_step"] == step
    assert checkpoint["DataModule"] == {"epoch": (step - 1) // 7, "batches": (step - 1) % 7 + 1}


def test_a_second_job_on_the_same_run_is_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = {"max_steps": 200, "seconds_per_step": 0.05}
    first = start(run, options)
    try:
        wait_for_step(run, 1, first)
        second = start(run, options)
        assert second.wait(timeout=60) != 0
        said = (tmp_path / "run.log").read_text()
        assert "another job is running in this run directory" in said
        assert f'"pid": {first.pid}' in said
        assert first.poll() is None
    finally:
        first.kill()
        first.wait()
