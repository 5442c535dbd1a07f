"""The benchmark of training steps runs, and all contenders of a race train the same thing."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.mark.slow
def test_every_race_is_run_with_tiny_models(tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    command = [sys.executable, BENCHMARKS / "train_step.py", "--tiny", "--rows", "2", "--rounds", "1", "--markdown"]
    races = ["--races", "clip", "bert", "bert_real", "gpt"]
    done = subprocess.run(
        [*map(str, [*command, *races, "--work", tmp_path, "--json", out])],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    races_run = json.loads(out.read_text())["races"]
    assert [len(race["contenders"]) for race in races_run] == [2, 2, 2, 3]
    assert all(who["seconds"] and who["units"] for race in races_run for who in race["contenders"])
    assert done.stdout.count("| mmtrain |") == 4


def test_mmtrain_and_hugging_face_get_the_same_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    bert = importlib.import_module("steps.bert")
    ours = bert._batch(torch.tensor([20, 7]), 20, torch.Generator().manual_seed(0))
    theirs = bert._their_batch(ours)
    assert theirs["attention_mask"].sum(dim=1).tolist() == [20, 7]
    assert (theirs["labels"] != -100).sum(dim=1).tolist() == [3, 1]
    assert (theirs["input_ids"] == bert.MASK_ID).equal(theirs["labels"] != -100)
