"""Which runs a report is made of: all that were asked for, begun or not, each with its state."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from reported_runs import LOSS, METRIC, config_of, write_reported, write_sweep

from mmtrain.errors import RunError
from mmtrain.run.report.cases import find_cases
from mmtrain.run.report.values import label_of

CURVES = {METRIC: [0.1, 0.2], LOSS: [2.0, 1.0]}


def test_a_sweep_gives_all_that_its_plan_asks_for_begun_or_not(tmp_path: Path) -> None:
    write_sweep(tmp_path, [1e-3, 4e-3], [1, 2], lambda lr, seed: None if (lr, seed) == (4e-3, 2) else CURVES)
    cases = find_cases([tmp_path]).cases
    assert [(label_of(case, "optim.lr"), label_of(case, "seed"), case.state) for case in cases] == [
        ("1e-3", "1", "done"),
        ("1e-3", "2", "done"),
        ("4e-3", "1", "done"),
        ("4e-3", "2", "waiting"),
    ]
    assert cases[-1].told == "waiting (not begun)"


def test_a_directory_of_sweeps_gives_those_of_all_plans_and_names_runs_that_are_in_none(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_sweep(tmp_path / name, [1e-3], [1, 2], lambda lr, seed: CURVES)
    aside = tmp_path / "a" / "runs" / "optim.lr=1e-3,seed=1.1"
    write_reported(aside, config_of("x", 1, 1e-3), CURVES)
    found = find_cases([tmp_path])
    assert len(found.cases) == 4
    assert len(found.notes) == 1
    assert str(aside) in found.notes[0] and "not in its plan" in found.notes[0]


def test_a_run_that_is_named_twice_counts_once(tmp_path: Path) -> None:
    write_sweep(tmp_path, [1e-3], [1, 2], lambda lr, seed: CURVES)
    run = tmp_path / "runs" / "optim.lr=1e-3,seed=2"
    assert len(find_cases([tmp_path, run, run.parent]).cases) == 2


@pytest.mark.parametrize(
    ("reason", "state", "told"),
    [
        ("failed: the loss is not finite", "failed", "failed (the loss is not finite)"),
        (None, "killed", "killed (step 2 of 4)"),
        ("preempted", "preempted", "preempted (step 2 of 4)"),
    ],
)
def test_a_run_that_is_not_done_tells_why(tmp_path: Path, reason: str | None, state: str, told: str) -> None:
    write_reported(tmp_path / "run", config_of("run", 1, 1e-3), CURVES, reason=reason)
    (case,) = find_cases([tmp_path]).cases
    assert (case.state, case.told, case.done) == (state, told, False)


def test_a_run_that_is_still_running_is_told_from_its_lock(tmp_path: Path) -> None:
    run = write_reported(tmp_path / "run", config_of("run", 1, 1e-3), CURVES, reason=None)
    hold = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); input()"
    command = [sys.executable, "-c", hold, str(run / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        (case,) = find_cases([tmp_path]).cases
        holder.communicate(b"\n")
    assert case.told == "running (step 2 of 4)"


def test_a_failed_job_of_a_sweep_tells_its_error_also_before_it_had_a_config(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path, [1e-3], [1, 2], lambda lr, seed: CURVES if seed == 1 else None)
    (sweep.logs / "local_1.out").write_text("error: there is no manifest\n")
    assert [case.told for case in find_cases([tmp_path]).cases] == ["done", "failed (there is no manifest)"]


def test_a_run_with_a_manifest_of_another_schema_counts_by_its_config_and_is_told(tmp_path: Path) -> None:
    run = write_reported(tmp_path / "run", config_of("run", 3, 1e-3), CURVES)
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps(manifest | {"schema": 99}))
    (case,) = find_cases([tmp_path]).cases
    assert case.done and label_of(case, "seed") == "3"
    assert "schema 99" in case.problems[0]


def test_a_run_without_a_manifest_counts_by_its_config(tmp_path: Path) -> None:
    write_reported(tmp_path / "run", config_of("run", 3, 1e-3), CURVES, manifest=False, overrides=["model=vit_b"])
    (case,) = find_cases([tmp_path]).cases
    assert case.done and label_of(case, "optim.lr") == "1e-3"
    assert label_of(case, "model") == "vit_b", "a group is known by what it was set to"


def test_a_job_whose_group_varies_is_known_by_its_plan_alone_as_far_as_that_goes(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path, [1e-3], [1], lambda lr, seed: None)
    line = json.loads(sweep.plan.read_text())
    sweep.plan.write_text(json.dumps(line | {"varied": ["model=vit_b", "seed=1"]}) + "\n")
    (case,) = find_cases([tmp_path]).cases
    assert case.config == {"model": "vit_b", "seed": 1}, "the first job's d_model may not be that of vit_b"


def test_a_root_without_runs_or_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run"):
        find_cases([tmp_path])
    with pytest.raises(RunError, match="no such directory"):
        find_cases([tmp_path / "missing"])
