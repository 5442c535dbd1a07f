"""Runs that stand there already: finished, of another config, or to be begun anew."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tiny_run import STEPS, Program, rows, tiny

SHORT = ("budget.samples=64", "data.eval=null", "callback.checkpoint.monitor=null")


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("wandb", "media")))


def files(run: Path) -> dict[str, bytes]:
    names = ("metrics.jsonl", "origin.json", "config.yaml", f"checkpoints/step_{STEPS:08d}.ckpt")
    return {name: (run / name).read_bytes() for name in names}


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["resume", "train"])
def test_a_finished_run_is_told_and_not_trained(program: Program, run: Path, shapes: Path, verb: str) -> None:
    before = files(run)
    arguments = ["resume", run] if verb == "resume" else ["train", *tiny(shapes, run)]
    outcome = program(*arguments, *(["logger=none"] if verb == "resume" else []))
    assert (outcome.status, outcome.err) == (0, "")
    assert f"nothing is left to train in {run}" in outcome.out
    assert f"step {STEPS} of {STEPS}" in outcome.out
    assert "eval/new_style/top5" in outcome.out
    after = files(run)
    for name in ("metrics.jsonl", f"checkpoints/step_{STEPS:08d}.ckpt"):
        assert after[name] == before[name]
    assert (run / "DONE").exists()


@pytest.mark.slow
def test_what_a_resume_changes_on_the_way_does_not_become_the_runs_origin(program: Program, run: Path) -> None:
    before = (run / "origin.json").read_bytes()
    for _ in range(2):
        assert program("resume", run, "~callback.retrievals", "data.num_workers=1").status == 0
    assert (run / "origin.json").read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["resume", "train"])
def test_another_config_is_refused_and_the_run_left_as_it_was(
    program: Program, run: Path, shapes: Path, verb: str
) -> None:
    before = files(run)
    arguments = ["resume", run] if verb == "resume" else tiny(shapes, run)
    outcome = program(*arguments, "optim.lr=1e-3")
    assert outcome.status == 1
    assert "the directory holds a run of another config:\n    optim.lr: 0.004 -> 0.001" in outcome.err
    assert "run.fresh=true" in outcome.err
    assert files(run) == before


def test_a_fresh_run_moves_the_old_one_aside(program: Program, shapes: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert program(*tiny(shapes, run, *SHORT)).status == 0
    (run / "note").write_text("keep me")
    again = program(*tiny(shapes, run, *SHORT, "run.fresh=true", "optim.lr=1e-3"))
    assert again.status == 0
    assert f"moved the old run to {run}.1" in again.err
    assert (tmp_path / "run.1" / "note").read_text() == "keep me"
    assert (tmp_path / "run.1" / "checkpoints" / "step_00000004.ckpt").exists()
    assert not (run / "note").exists()
    assert [row["step"] for row in rows(run, but="throughput/")] == [1, 2, 3, 4]


def test_a_fresh_run_that_a_scheduler_restarts_goes_on(
    program: Program, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    for _ in range(2):
        outcome = program(*tiny(shapes, run, *SHORT, "run.fresh=true"))
        assert outcome.status == 0
    assert "nothing is left to train" in outcome.out
    assert list(tmp_path.iterdir()) == [run]


def test_a_config_directory_of_ones_own_is_found_again_from_elsewhere(
    program: Program, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "mine" / "experiment" / "own.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("# @package _global_\ndefaults:\n  - clip_emoji\nname: own\nseed: 3\n")
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    arguments = ["experiment=own", *tiny(shapes, run, *SHORT)[1:]]
    assert program(*arguments, "--config-dir", "mine").status == 0
    monkeypatch.chdir(shapes)
    outcome = program("resume", run)
    assert (outcome.status, outcome.err) == (0, "")
    assert "nothing is left to train" in outcome.out
