"""``runs``: what it prints of ten thousand runs, how it filters and sorts, and what it refuses."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from recorded_runs import CONFIG, MANIFEST, ended, write_recorded
from tiny_run import Program

from mmtrain.run.manifest import Best


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three finished runs, one that failed, one that was killed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TZ", "UTC")
    for number, (lr, top1) in enumerate(((1e-3, 0.5), (3e-3, 0.75), (1e-2, -0.25))):
        config = {**CONFIG, "seed": number, "optim": {"lr": lr}, "debug": number == 0}
        best = Best("eval/x/top1", 2, {"eval/x/top1": top1})
        write_recorded(Path(f"runs/run{number}"), replace(MANIFEST, config=config, best=best))
    write_recorded(Path("runs/sweep/a"), ended("failed: RunError: x", 2), marks=("lock",))
    write_recorded(Path("runs/sweep/b"), ended(None, None), marks=("lock",))
    return tmp_path / "runs"


def shown(program: Program, *arguments: object) -> list[str]:
    outcome = program("runs", *arguments)
    assert (outcome.status, outcome.err) == (0, "")
    return outcome.out.splitlines()


def names(lines: list[str]) -> list[str]:
    return [line.split()[0] for line in lines[1:-1]]


def test_every_run_is_a_line_with_state_step_speed_loss_and_best(program: Program, runs: Path) -> None:
    header, *lines, count = shown(program)
    assert header.split() == ["run", "state", "step", "samples/s", "loss", "best", "started", "host"]
    assert lines[1].split() == [
        "runs/run1", "done", "4/4", "100", "0.25", "0.75", "eval/x/top1", "2026-01-02", "03:04", "node1",
    ]  # fmt: skip
    assert [line.split()[:3] for line in lines[3:]] == [
        ["runs/sweep/a", "failed", "2/4"],
        ["runs/sweep/b", "killed", "4/4"],
    ]
    assert count == "5 runs"


def test_runs_are_filtered_by_state_and_config(program: Program, runs: Path) -> None:
    assert names(shown(program, "--state", "failed,killed")) == ["runs/sweep/a", "runs/sweep/b"]
    assert names(shown(program, "--where", "optim.lr=3e-3")) == ["runs/run1"]
    assert names(shown(program, "--where", "debug=false", "--where", "seed=2")) == ["runs/run2"]
    assert names(shown(program, "--where", "trainer.threads=null", "--state", "failed")) == ["runs/sweep/a"]
    assert shown(program, "--where", "name=toys") == ["0 of 5 runs"]


def test_runs_are_sorted_by_fields_and_metrics_those_without_a_value_first(program: Program, runs: Path) -> None:
    assert names(shown(program, "--sort", "best", "--state", "done")) == ["runs/run2", "runs/run0", "runs/run1"]
    lines = shown(program, "--sort", "eval/x/top1", "--reverse")
    assert names(lines)[0] == "runs/run1"
    assert lines[0].split()[5] == "eval/x/top1" and lines[1].split()[5] == "0.75"
    assert names(shown(program, "--sort", "best"))[0] == "runs/sweep/b", "it has none"
    assert names(shown(program, "--sort", "step"))[0] == "runs/sweep/a"
    assert names(shown(program, "--reverse"))[0] == "runs/sweep/b"


def test_everything_is_told_as_json(program: Program, runs: Path) -> None:
    found = json.loads("\n".join(shown(program, "--json", "runs/run0", "runs/sweep")))
    assert [run["path"] for run in found] == ["runs/run0", "runs/sweep/a", "runs/sweep/b"]
    assert (found[0]["best"], found[0]["best_step"], found[0]["reason"]) == (0.5, 2, "finished")
    assert found[1]["reason"] == "failed: RunError: x"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--state", "dnoe"], "there is no state 'dnoe'.*did you mean 'done'"),
        (["--where", "optim.l=1"], "no run's config has the key 'optim.l'.*did you mean 'optim.lr'"),
        (["--where", "optim.lr"], "'optim.lr' is no condition"),
        (["--sort", "eval/x/top"], "nothing to sort by under 'eval/x/top'.*did you mean 'eval/x/top1'"),
        (["nowhere"], "there is no such directory"),
    ],
)
def test_a_mistake_is_told_with_the_nearest_name(
    program: Program, runs: Path, arguments: list[str], message: str
) -> None:
    outcome = program("runs", *arguments)
    assert outcome.status == 1
    assert re.search(message, outcome.err, re.DOTALL), outcome.err


def test_a_directory_without_runs_is_told(program: Program, tmp_path: Path) -> None:
    assert shown(program, tmp_path) == ["0 runs"]


def test_ten_thousand_runs_are_all_listed(program: Program, tmp_path: Path) -> None:
    pattern = write_recorded(tmp_path / "pattern")
    for number in range(10_000):
        run = tmp_path / "runs" / f"{number % 100:02d}" / f"{number:05d}"
        run.mkdir(parents=True)
        for name in ("origin.json", "manifest.json", "DONE"):
            os.link(pattern / name, run / name)
    lines = shown(program, tmp_path / "runs", "--sort", "run")
    assert (len(lines), lines[-1]) == (10_002, "10000 runs")
    assert lines[1].split()[0].endswith("/00/00000") and lines[-2].split()[0].endswith("/99/09999")
