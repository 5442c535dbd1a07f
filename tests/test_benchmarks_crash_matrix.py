"""The crash matrix kills a real run, sees what came of it, and can tell a run that went wrong."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.mark.slow
def test_three_kills_of_two_ranks_leave_no_trace(tmp_path: Path) -> None:
    out = tmp_path / "matrix.md"
    command = [sys.executable, str(BENCHMARKS / "crash_matrix.py"), "--out", str(out)]
    done = subprocess.run(
        [*command, "--kills", "3", "--steps", "30", "--seed", "1"],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "bit-identical" in out.read_text()
    assert sum(line.startswith(("| 1 |", "| 2 |", "| 3 |")) for line in out.read_text().splitlines()) == 3


def test_the_plan_is_drawn_from_the_seed_and_has_every_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    matrix = importlib.import_module("crash_matrix")
    kills = matrix.plan(30, 200, seed=0)
    assert kills == matrix.plan(30, 200, seed=0) != matrix.plan(30, 200, seed=1)
    assert {kill.moment for kill in kills} == set(matrix.MOMENTS)
    assert {kill.victim for kill in kills} == set(matrix.VICTIMS)
    assert [kill.target for kill in kills] == sorted(kill.target for kill in kills)


def test_moments_are_told_by_what_stands_in_the_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    moments = importlib.import_module("crashes.moments")
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (tmp_path / "metrics.jsonl").write_text('{"step": 10, "train/loss": 1.0}\n')
    (folder / ".step_00000010.ckpt.unsealed").touch()
    assert moments.in_evaluation(tmp_path) and moments.is_writing(tmp_path) and not moments.is_sealing(tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 10, "eval/loss": 1.0}\n{"step": 11, "tr')
    (folder / ".step_00000010.ckpt.unsealed").unlink()
    record = folder / ".step_00000010.json.partial"
    record.touch()
    assert not moments.in_evaluation(tmp_path) and not moments.is_writing(tmp_path) and moments.is_sealing(tmp_path)
    record.rename(folder / "step_00000010.json")
    assert not moments.is_sealing(tmp_path)
