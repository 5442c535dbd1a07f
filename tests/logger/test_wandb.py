"""What W&B's own format holds equals metrics.jsonl, with no account and no word on the console."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mmtrain.logger.rows import read_rows
from mmtrain.logger.wandb import run_id

ROOT = Path(__file__).parents[2]
SCRIPT = """
import os, signal, sys
from pathlib import Path
import numpy as np
from mmtrain.logger.jsonl import JsonlLogger
from mmtrain.logger.wandb import WandbLogger
directory, resume, until, kill = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "kill"
loggers = [WandbLogger(directory, {"optim": {"lr": 0.1}}, resume), JsonlLogger(directory, resume)]
for step in range(resume + 1, until + 1):
    for logger in loggers:
        logger.log_metrics({"train/loss": 1 / step, "epoch": step / 7}, step=step)
        if step % 3 == 0:
            logger.log_metrics({"eval/top1": step / 100}, step=step)
if kill:
    os.kill(os.getpid(), signal.SIGKILL)
for logger in loggers:
    logger.log_image("eval/picture", np.zeros((4, 5, 3), dtype=np.uint8), step=until)
    logger.log_table("eval/words", ["word", "count"], [["a", 1]], step=until)
    logger.finalize("success")
"""


def run(
    directory: Path, resume: int, until: int, end: str = "finish", **environment: str
) -> subprocess.CompletedProcess[str]:
    directory.mkdir(exist_ok=True)
    variables = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    variables |= {"PYTHONPATH": str(ROOT), "HOME": str(directory.parent), **environment}
    command = [sys.executable, "-c", SCRIPT, str(directory), str(resume), str(until), end]
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)


def records(segment: Path, kind: str) -> list[dict[str, Any]]:
    """What W&B's own reader finds in a segment."""
    (file,) = segment.glob("*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    read = subprocess.run(command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
    found = [json.loads(line) for line in read.stdout.splitlines()]
    return [record[kind] for record in found if record["type"] == kind]


def history(segment: Path) -> dict[int, dict[str, Any]]:
    rows: dict[int, dict[str, Any]] = {}
    for record in records(segment, "history"):
        row = {key: value for key, value in record["item"].items() if not key.startswith("_")}
        rows.setdefault(record["step"]["num"], {}).update(row)
    return rows


def recorded(directory: Path) -> dict[int, dict[str, Any]]:
    rows: dict[int, dict[str, Any]] = {}
    for row in read_rows(directory / "metrics.jsonl"):
        rows.setdefault(row.pop("step"), {}).update(row)
    return rows


def segments(directory: Path) -> list[Path]:
    return sorted((directory / "wandb").glob("offline-run-*"), key=lambda path: path.stat().st_mtime)


@pytest.mark.slow
def test_the_newest_offline_segment_is_the_whole_history_after_a_kill(tmp_path: Path) -> None:
    directory = tmp_path / "emoji"
    killed = run(directory, 0, 20, "kill")
    assert killed.returncode == -9, killed.stderr
    resumed = run(directory, 12, 30)
    assert (resumed.returncode, resumed.stdout, resumed.stderr) == (0, "", "")

    newest = segments(directory)[-1]
    rows = history(newest)
    media = {key: rows[30].pop(key) for key in list(rows[30]) if key.startswith(("eval/picture", "eval/words"))}
    assert (media["eval/picture._type"], media["eval/words._type"]) == ("image-file", "table-file")
    assert rows == recorded(directory) and sorted(rows) == list(range(1, 31))
    assert len(segments(directory)) == 2 and all(run_id(directory) in segment.name for segment in segments(directory))
    (started,) = records(newest, "run")
    assert started["run_id"] == run_id(directory) and started["display_name"] == "emoji"
    assert started["config"]["update"]["optim"] == {"lr": 0.1}


def test_the_environment_can_switch_wandb_off(tmp_path: Path) -> None:
    done = run(tmp_path / "off", 0, 2, WANDB_MODE="disabled")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert segments(tmp_path / "off") == []
    assert sorted(recorded(tmp_path / "off")) == [1, 2]


def test_two_runs_of_one_name_have_two_ids_and_one_run_keeps_its_own(tmp_path: Path) -> None:
    for parent in ("a", "b"):
        (tmp_path / parent / "emoji").mkdir(parents=True)
    one, other = run_id(tmp_path / "a" / "emoji"), run_id(tmp_path / "b" / "emoji")
    assert one != other and one == run_id(tmp_path / "a" / "emoji")
