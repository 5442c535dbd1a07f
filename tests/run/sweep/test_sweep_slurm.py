"""What is handed to SLURM and what is read from it; the real cluster is in tests/slurm."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from mmtrain.errors import ConfigError, RunError
from mmtrain.run.sweep.plan import Sweep, write_base
from mmtrain.run.sweep.slurm import array_script, index_list, queued, sbatch_command, submit


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    monkeypatch.chdir(tmp_path)
    made = Sweep(Path("sweeps/lr"))
    made.logs.mkdir(parents=True)
    base(made)
    return made


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which SLURM's programs are looked for first."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def base(sweep: Sweep, devices: int | str = 1, num_nodes: int = 1) -> None:
    write_base(sweep, [], {"trainer": {"devices": devices, "num_nodes": num_nodes}})


def write_program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


def test_one_array_of_all_indices_with_the_users_options_last(sweep: Sweep) -> None:
    assert sbatch_command(sweep, [5, 0, 1, 2], ["--partition=gpu", "--job-name=x"], Path("array.sbatch"), 2) == [
        *("sbatch", "--parsable", "--job-name=lr", "--array=0-2,5%2", "--output=sweeps/lr/logs/slurm_%A_%a.out"),
        *("--partition=gpu", "--job-name=x", "array.sbatch", "sweeps/lr"),
    ]
    assert "--array=3" in sbatch_command(sweep, [3], [], Path("array.sbatch"))


def test_a_job_gets_a_task_for_each_device_and_its_nodes(sweep: Sweep) -> None:
    base(sweep, devices=4, num_nodes=2)
    command = sbatch_command(sweep, [0], ["--nodes=3"], Path("array.sbatch"))
    assert command[5:8] == ["--nodes=2", "--ntasks-per-node=4", "--nodes=3"]
    base(sweep, devices="auto")
    assert not [word for word in sbatch_command(sweep, [0], [], Path("a")) if "ntasks" in word]


@pytest.mark.parametrize("option", ["--array=1", "-a", "--parsable"])
def test_options_that_are_the_sweeps_own_are_refused(sweep: Sweep, option: str) -> None:
    with pytest.raises(ConfigError, match="a sweep sets"):
        sbatch_command(sweep, [0], [option], Path("array.sbatch"))


def test_indices_are_written_as_sbatch_takes_them() -> None:
    assert index_list([7, 0, 1, 2, 4, 5]) == "0-2,4-5,7"


def test_the_script_lies_beside_the_configs() -> None:
    assert array_script().read_text().startswith("#!/usr/bin/env bash")


def test_what_was_submitted_is_found_in_the_queue_and_nothing_else(sweep: Sweep, programs: Path) -> None:
    assert queued(sweep) == {}, "nothing was submitted, and nobody is asked"
    write_program(programs / "sbatch", "echo '71;cluster'")
    assert submit(sweep, ["sbatch", "--array=0-2"]) == "71"
    assert json.loads(sweep.submissions.read_text()) == {"job": "71", "command": ["sbatch", "--array=0-2"]}
    write_program(programs / "squeue", "printf '%s\\n' '71 0 RUNNING' '71 2 PENDING' '70 1 RUNNING' '72 N/A PENDING'")
    assert queued(sweep) == {0: "job 71_0 running", 2: "job 71_2 pending"}


def test_a_silent_slurm_stops_what_would_submit_again(sweep: Sweep, programs: Path) -> None:
    sweep.submissions.write_text('{"job": "71"}\n')
    write_program(programs / "squeue", "echo 'Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(RunError, match="Unable to contact"):
        queued(sweep)


def test_a_refusal_and_a_machine_without_slurm_are_told(
    sweep: Sweep, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_program(programs / "sbatch", "echo 'invalid partition specified: gpu' >&2; exit 1")
    with pytest.raises(RunError, match="invalid partition specified: gpu"):
        submit(sweep, ["sbatch", "--partition=gpu"])
    assert not sweep.submissions.exists()
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(RunError, match="no sbatch here") as error:
        submit(sweep, ["sbatch"])
    assert "--local" in str(error.value.mend)
    sweep.submissions.write_text('{"job": "71"}\n')
    assert queued(sweep) == {}
