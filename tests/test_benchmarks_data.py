"""The data benchmark runs, and its table tells what was missed. What it measures here means nothing."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


def _run(work: Path, measures: list[str]) -> tuple[list[dict[str, Any]], str]:
    out = work / "runs.json"
    command = [sys.executable, BENCHMARKS / "data.py", "--quick", "--samples", "200", "--peers", "--markdown"]
    options = ["--only", *measures, "--work", work, "--json", out]
    done = subprocess.run([*map(str, [*command, *options])], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text())["runs"], done.stdout


def test_the_whole_pipeline_is_raced_over_a_tiny_set(tmp_path: Path) -> None:
    [run], table = _run(tmp_path, ["batches"])
    assert (run["measure"], run["subject"], run.get("failed")) == ("batches", "ours", None)
    assert run["samples"] == 128  # the batches whose ends lie within 5% to 90% of 200
    assert "| mmtrain" in table


@pytest.mark.slow
def test_every_other_figure_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measures = ["raw", "resume", "remote", "transport"]
    runs, _ = _run(tmp_path, measures)
    assert [run for run in runs if "failed" in run] == []
    assert [run["measure"] for run in runs] == [measure for measure in measures for _ in range(2)]

    monkeypatch.syspath_prepend(BENCHMARKS)
    processes = importlib.import_module("loaders.processes")
    planned = processes.run(sys.executable, "scale", "--shards", 1000, "--samples", 1000)
    assert planned["first"]["seconds"] > planned["resumed"]["seconds"] > 0


def test_the_table_tells_what_was_missed_failed_and_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    table = importlib.import_module("loaders.table")
    runs = [
        {"measure": "raw", "subject": "ours", "samples": 1000, "wall": 1.0, "cpu": 1.0},
        {"measure": "raw", "subject": "webdataset", "samples": 1000, "wall": 7.0, "cpu": 8.0},
        {"measure": "raw", "subject": "litdata", "samples": 1000, "wall": 1.5, "cpu": 1.5},
        {"measure": "batches", "subject": "litdata", "failed": "a reason"},
        {"measure": "resume", "subject": "at sample 0", "seconds": 1.0},
        {"measure": "resume", "subject": "at 10,000,000", "seconds": 2.5},
    ]
    rows = list(table.rows(runs, {"webdataset": "1.0.2"}, {"energon": "no wheel"}))
    assert rows[1][1:] == ("webdataset 1.0.2", "143", "143", "125", "7.00", "8.00", ">= 8: missed")
    assert rows[2][-1] == ">= 1.3: met"
    assert rows[4][5:] == ("2.50", "", "<= 2: missed")
    assert rows[5][:3] == ("not installed", "megatron-energon", "no wheel")
    assert rows[6][:3] == ("failed: batches", "LitData", "1 times: a reason")
    assert {len(row) for row in rows} == {len(table.HEADER)}
