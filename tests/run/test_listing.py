"""Runs in one line each: of whatever state, whole or torn, nested in sweeps or not."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from recorded_runs import CONFIG, MANIFEST, ROWS, ended, write_recorded

from mmtrain.errors import RunError
from mmtrain.run.listing import list_runs, read_listed


def test_a_finished_run_is_listed_from_its_manifest_alone(tmp_path: Path) -> None:
    run = write_recorded(tmp_path / "run")
    (run / "metrics.jsonl").unlink()
    listed = read_listed(run)
    assert (listed.path, listed.state, listed.step, listed.total_steps) == (run, "done", 4, 4)
    assert (listed.speed, listed.loss, listed.monitor, listed.best, listed.best_step) == (
        100.0, 0.25, "eval/x/top1", 0.5, 2,
    )  # fmt: skip
    assert (listed.started_at, listed.host, listed.reason) == ("2026-01-02T03:04:05+00:00", "node1", "finished")
    assert listed.config == {}
    assert listed.metric("eval/x/loss") == 1.5, "at the best evaluation"
    assert listed.metric("train/loss") == 0.25, "the last, where that has none"


def test_a_killed_run_is_listed_from_the_end_of_its_metrics(tmp_path: Path) -> None:
    rows = [{"step": 1, "eval/x/top1": 0.1, "train/loss": 3.0}, {"step": 1, "throughput/samples_per_second": 7.0}]
    rows += [{"step": step, "train/loss": "NaN"} for step in range(2, 3000)]
    run = write_recorded(tmp_path / "run", ended(None, None), rows, marks=("lock",))
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3000, "train/lo')
    listed = read_listed(run)
    assert (listed.state, listed.step, listed.speed) == ("killed", 2999, None), "as far as its last 64 KiB tell"
    assert listed.loss is not None and math.isnan(listed.loss)


def test_the_best_of_a_run_that_goes_on_is_that_of_its_checkpoints(tmp_path: Path) -> None:
    run = write_recorded(tmp_path / "run", ended(None, None), ROWS, marks=("lock",))
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "best.json").write_text(
        json.dumps({"file": "step_00000003.ckpt", "step": 3, "monitor": "eval/x/top1"})
    )
    assert read_listed(run).best is None, "its record is gone"
    (run / "checkpoints" / "step_00000003.json").write_text(json.dumps({"metrics": {"eval/x/top1": 0.75}}))
    listed = read_listed(run)
    assert (listed.best, listed.best_step) == (0.75, 3)


def test_a_run_of_before_or_of_another_schema_or_with_damage_is_listed_by_its_metrics(tmp_path: Path) -> None:
    old = write_recorded(tmp_path / "old", None, marks=("DONE",))
    other = write_recorded(tmp_path / "other", marks=("DONE",))
    (other / "manifest.json").write_text(json.dumps({"schema": 2, "total_steps": 9}))
    torn = write_recorded(tmp_path / "torn", marks=("DONE",))
    (torn / "manifest.json").write_text('{"schema": 1, "tot')
    for run in (old, other, torn):
        listed = read_listed(run)
        assert (listed.state, listed.step, listed.total_steps, listed.loss) == ("done", 4, None, 0.25)


def test_a_run_that_has_just_begun_is_listed(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "origin.json").write_text("{}")
    (listed,) = list_runs([tmp_path])
    assert (listed.path, listed.state, listed.step) == (run, "killed", None)


def test_runs_are_found_in_the_order_of_their_paths_in_sweeps_too_and_nothing_below_a_run(tmp_path: Path) -> None:
    for name in ("b", "sweep/2", "sweep/10", "a"):
        write_recorded(tmp_path / name)
    write_recorded(tmp_path / "a" / "inner")
    write_recorded(tmp_path / ".hidden" / "run")
    (tmp_path / "no run" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "sweep")
    names = [str(run.path.relative_to(tmp_path)) for run in list_runs([tmp_path])]
    assert names == ["a", "b", "sweep/10", "sweep/2"]
    assert [run.path for run in list_runs([tmp_path / "b", tmp_path / "a"])] == [tmp_path / "b", tmp_path / "a"]


def test_a_root_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no such directory"):
        list(list_runs([tmp_path / "runs"]))


def test_the_config_comes_where_it_is_asked_for(tmp_path: Path) -> None:
    write_recorded(tmp_path / "run", replace(MANIFEST, packages={"p": {f"x{n}": "1" for n in range(9999)}}))
    (listed,) = list_runs([tmp_path], with_config=True)
    assert listed.config == CONFIG


def test_listing_loads_neither_torch_nor_yaml(tmp_path: Path) -> None:
    script = (
        "import sys; from mmtrain.__main__ import main\n"
        "assert main(['runs', sys.argv[1]]) == 0\n"
        "assert not {'torch', 'yaml', 'lightning', 'hydra', 'numpy'} & set(sys.modules), 'slow to load'\n"
    )
    write_recorded(tmp_path / "run")
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": root}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "1 runs" in done.stdout
