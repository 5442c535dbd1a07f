"""The last words of a run say where it lies and how to go on."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from mmtrain.run.directory import RunDirectory
from mmtrain.run.summary import run_summary


def said(run: RunDirectory, step: int) -> str:
    console = Console(width=200, record=True, quiet=False, file=None)
    with console.capture() as captured:
        console.print(
            run_summary(run, {"eval/top1": 0.51239}, step=step, total_steps=9, command="mmtrain resume emoji")
        )
    return captured.get()


def test_a_stopped_run_tells_how_to_go_on_and_where_its_wandb_files_lie(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "emoji")
    for name in ("offline-run-1-x", "offline-run-2-x"):
        (run.wandb / name).mkdir(parents=True)
        (run.wandb / name / "run-x.wandb").touch()
    text = said(run, step=4)
    assert "0.5124" in text and str(run.path) in text and "mmtrain resume emoji" in text
    assert f"wandb sync {run.wandb / 'offline-run-2-x'}" in text and "offline-run-1-x" not in text


def test_a_finished_run_does_not_ask_to_be_resumed(tmp_path: Path) -> None:
    assert "mmtrain resume" not in said(RunDirectory(tmp_path / "emoji"), step=9)
