"""A run directory holds one run, of one config, by one job."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mmtrain.errors import RunError
from mmtrain.run.directory import config_differences, open_run

ROOT = Path(__file__).parents[2]
CONFIG: dict[str, Any] = {
    "name": "emoji",
    "optim": {"lr": 1e-5, "betas": (0.9, 0.98)},
    "trainer": {"devices": 1, "precision": "auto"},
    "data": {"num_workers": 2, "global_batch_size": 64},
    "callback": {},
}


def begin(path: Path, config: dict[str, Any] = CONFIG, fresh: bool = False) -> None:
    """Opens the run, records a row, and ends."""
    run = open_run(path, config, fresh)
    with run.metrics.open("a") as file:
        file.write('{"step": 1}\n')
    run.close()


def changed(**groups: dict[str, Any]) -> dict[str, Any]:
    return {
        key: {**value, **groups.get(key, {})} if isinstance(value, dict) else value for key, value in CONFIG.items()
    }


def test_the_same_config_goes_on(tmp_path: Path) -> None:
    begin(tmp_path / "emoji")
    begin(tmp_path / "emoji")
    assert (tmp_path / "emoji" / "metrics.jsonl").read_text().count("\n") == 2


def test_another_config_is_refused_with_its_keys_and_the_mend(tmp_path: Path) -> None:
    begin(tmp_path / "emoji")
    other = changed(optim={"lr": 2e-5, "eps": 1e-6}, data={"num_workers": 8})
    with pytest.raises(RunError) as refused:
        open_run(tmp_path / "emoji", other)
    said = str(refused.value)
    assert "optim.lr: 1e-05 -> 2e-05" in said and "optim.eps: (absent) -> 1e-06" in said
    assert "num_workers" not in said and "betas" not in said
    assert "name=" in said and "run.fresh=true" in said
    begin(tmp_path / "emoji")


@pytest.mark.parametrize(
    ("group", "key", "free"),
    [
        ("trainer", "devices", True),
        ("data", "num_workers", True),
        ("data", "root", True),
        ("data", "micro_batch_size", True),
        ("callback", "progress", True),
        ("callback", "guard", False),
        ("callback", "ema", False),
        ("trainer", "precision", False),
        ("data", "num_workers_of_another_kind", False),
        ("data", "global_batch_size", False),
    ],
)
def test_only_what_changes_the_trajectory_counts(group: str, key: str, free: bool) -> None:
    assert (config_differences(CONFIG, changed(**{group: {key: 99}})) == {}) is free


def test_a_run_that_never_made_a_step_may_be_started_with_another_config(tmp_path: Path) -> None:
    open_run(tmp_path / "emoji", CONFIG).close()
    begin(tmp_path / "emoji", changed(optim={"lr": 1.0}))


def test_fresh_moves_old_runs_aside_and_deletes_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for round_ in range(3):
        with caplog.at_level(logging.WARNING):
            begin(tmp_path / "emoji", fresh=True)
        (tmp_path / "emoji" / "log.txt").write_text(str(round_))
    names = {path.name: (path / "log.txt").read_text() for path in tmp_path.iterdir()}
    assert names == {"emoji": "2", "emoji.1": "0", "emoji.2": "1"}
    assert "emoji.2" in caplog.text


def test_markers_of_an_earlier_job_are_gone(tmp_path: Path) -> None:
    run = open_run(tmp_path / "emoji", CONFIG)
    run.requeue.touch()
    run.done.touch()
    run.close()
    again = open_run(tmp_path / "emoji", CONFIG)
    assert not again.requeue.exists() and not again.done.exists()
    again.close()


def test_a_directory_held_by_another_process_is_refused_until_it_dies(tmp_path: Path) -> None:
    script = "import sys; from pathlib import Path; from mmtrain.run.directory import open_run\n"
    script += "run = open_run(Path(sys.argv[1]), {}); print('held', flush=True); sys.stdin.read()"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "SLURM_JOB_ID": "4711"}
    command = [sys.executable, "-c", script, str(tmp_path / "emoji")]
    holder = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    for fresh in (False, True):
        with pytest.raises(RunError, match=rf'"pid": {holder.pid}, "job": "4711"'):
            open_run(tmp_path / "emoji", {}, fresh)
    holder.kill()
    holder.wait()
    open_run(tmp_path / "emoji", {}).close()


def test_a_directory_that_cannot_be_written_is_told_with_the_mend(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(RunError, match=r"run\.dir="):
        open_run(tmp_path / "runs" / "emoji", CONFIG)


def test_checkpoints_without_a_config_are_refused(tmp_path: Path) -> None:
    (tmp_path / "emoji" / "checkpoints").mkdir(parents=True)
    (tmp_path / "emoji" / "checkpoints" / "step_00000001.ckpt").touch()
    with pytest.raises(RunError, match=r"no config\.yaml"):
        open_run(tmp_path / "emoji", CONFIG)


def test_only_rank_0_touches_the_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    open_run(tmp_path / "emoji", CONFIG, fresh=True)
    assert not (tmp_path / "emoji").exists()
