"""What a run leaves behind: W&B's files, TensorBoard's, pictures and tables, all with the numbers of metrics.jsonl."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_run import EVAL_EVERY, STEPS, Program, rows, tiny

EVALUATED = [*range(EVAL_EVERY, STEPS, EVAL_EVERY), STEPS]
SETS = ("new_style", "new_concept")


def recorded(run: Path) -> dict[int, dict[str, Any]]:
    """All of ``metrics.jsonl``, by step."""
    by_step: dict[int, dict[str, Any]] = {}
    for row in rows(run):
        by_step.setdefault(row.pop("step"), {}).update(row)
    return by_step


@pytest.fixture(scope="module")
def history(finished: Path) -> dict[int, dict[str, Any]]:
    """The history in the run's ``.wandb`` file, as W&B's own reader finds it, by step."""
    (file,) = (finished / "wandb").glob("offline-run-*/run-*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    read = subprocess.run(command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL, timeout=120)
    by_step: dict[int, dict[str, Any]] = {}
    for record in map(json.loads, read.stdout.splitlines()):
        if record["type"] == "history":
            item = {key: value for key, value in record["history"]["item"].items() if not key.startswith("_")}
            by_step.setdefault(record["history"]["step"]["num"], {}).update(item)
    return by_step


@pytest.mark.slow
def test_wandb_holds_the_numbers_of_the_record(finished: Path, history: dict[int, dict[str, Any]]) -> None:
    numbers = {step: {k: v for k, v in row.items() if not k.startswith("retrievals/")} for step, row in history.items()}
    assert numbers == recorded(finished)
    assert sorted(numbers) == list(range(1, STEPS + 1))


@pytest.mark.slow
def test_wandb_holds_pictures_and_tables_of_each_evaluation(history: dict[int, dict[str, Any]]) -> None:
    for name in SETS:
        for suffix, kind in (("", "image-file"), ("/table", "table-file")):
            found = [step for step, row in history.items() if row.get(f"retrievals/{name}{suffix}._type") == kind]
            assert found == EVALUATED


@pytest.mark.slow
def test_wandb_asks_for_no_account_and_writes_in_the_run_directory(finished: Path) -> None:
    said = (finished.parent / "said.log").read_text()
    assert not re.search(r"log.?in|account|api.?key|wandb\.ai|wandb:", said, re.IGNORECASE), said
    assert not list(finished.parent.rglob(".netrc"))
    # The run had this folder as its home, where hidden folders are caches.
    assert {path.name for path in finished.parent.iterdir() if not path.name.startswith(".")} == {"run", "said.log"}


@pytest.mark.slow
def test_tensorboard_holds_the_numbers_of_the_record(finished: Path) -> None:
    events = EventAccumulator(str(finished / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    keys = {key for row in recorded(finished).values() for key in row}
    assert set(events.Tags()["scalars"]) == keys
    for key in keys:
        expected = {(step, np.float32(row[key])) for step, row in recorded(finished).items() if key in row}
        assert {(event.step, np.float32(event.value)) for event in events.Scalars(key)} == expected
    assert [event.step for event in events.Images("retrievals/new_style")] == EVALUATED


@pytest.mark.slow
def test_every_evaluation_leaves_a_picture_and_a_table_of_each_set(finished: Path) -> None:
    for name in SETS:
        media = finished / "media" / "retrievals" / name
        assert [int(path.stem.removeprefix("step_")) for path in sorted(media.glob("*.png"))] == EVALUATED
        assert [int(path.stem.removeprefix("step_")) for path in sorted(media.glob("table/*.csv"))] == EVALUATED
        assert Image.open(next(media.glob("*.png"))).width == 4 * 330
        with next(media.glob("table/*.csv")).open(newline="") as file:
            header, *lines = csv.reader(file)
        assert header == ["caption", *(f"{what} {k}" for k in (1, 2, 3) for what in ("nearest", "cosine"))]
        assert len(lines) == (16 if name == "new_style" else 12)


@pytest.mark.slow
def test_the_last_step_is_evaluated_where_the_interval_does_not_meet_it(finished: Path) -> None:
    assert STEPS % EVAL_EVERY
    assert [row["step"] for row in rows(finished) if "eval/new_style/top1" in row] == EVALUATED


@pytest.mark.slow
def test_the_run_directory_says_what_was_run(finished: Path) -> None:
    config = yaml.safe_load((finished / "config.yaml").read_text())
    assert config["model"]["text"]["context_length"] == 14
    assert json.loads((finished / "origin.json").read_text())["overrides"][0] == "experiment=clip_emoji"
    assert f"training {STEPS} steps" in (finished / "log.txt").read_text()
    said = (finished.parent / "said.log").read_text()
    assert f"step {STEPS} of {STEPS}" in said
    assert "WARNING" not in said
    assert "rror" not in said


def test_a_run_can_do_without_loggers_callbacks_and_evaluation_sets(
    program: Program, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    bare = ["data.eval=null", "callback.checkpoint=null", "callback.progress=null", "budget.samples=48"]
    outcome = program(*tiny(shapes, run, *bare))
    assert outcome.status == 0
    assert outcome.err == ""
    assert [row["step"] for row in rows(run, but="throughput/")] == [1, 2, 3]
    # A patch only of uncommitted work, where there is some.
    assert sorted(path.name for path in run.iterdir() if path.suffix != ".patch") == [
        "DONE", "config.yaml", "lock", "log.txt", "manifest.json", "metrics.jsonl", "origin.json", "tokenizer",
    ]  # fmt: skip
    assert list(tmp_path.iterdir()) == [run]
