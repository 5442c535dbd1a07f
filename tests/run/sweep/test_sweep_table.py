"""How far jobs are, and the table that shows it: read as it grows, a line a job, whole or cut to the terminal."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
from rich.console import Console

from mmtrain.run.directory import RunDirectory
from mmtrain.run.sweep.plan import Element, Sweep, write_base, write_plan
from mmtrain.run.sweep.progress import Metric, Progress
from mmtrain.run.sweep.search import Search, write_search
from mmtrain.run.sweep.state import State, Status
from mmtrain.run.sweep.table import SweepTable, brief

METRIC = "eval/new_style/top1"
STATES = [
    Status(State.DONE),
    Status(State.RUNNING, "process 4711 on host"),
    Status(State.FAILED, "DataError: a shard of the data set is gone, and this is a long text"),
    Status(State.WAITING),
]


def write_rows(run: Path, *rows: dict[str, object], total_steps: int | None = 9) -> None:
    run.mkdir(parents=True, exist_ok=True)
    (run / "manifest.json").write_text(json.dumps({"schema": 1, "total_steps": total_steps, "segments": []}))
    with (run / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    monkeypatch.chdir(tmp_path)
    made = Sweep(Path("sweeps/lr"))
    names = [f"seed={seed},optim.weight_decay=0.05" for seed in range(4)]
    write_base(made, ["experiment=x"], {"callback": {"checkpoint": {"monitor": METRIC, "mode": "max"}}})
    write_plan(made, [Element(i, name, f"runs/{name}", (), (name,), ()) for i, name in enumerate(names)])
    speed = {"train/loss": 0.123456, "throughput/samples_per_second": 6543.21}
    write_rows(made.path / "runs" / names[0], {"step": 9, METRIC: 0.5, **speed})
    write_rows(made.path / "runs" / names[1], {"step": 4, METRIC: 0.75, **speed})
    write_rows(made.path / "runs" / names[2])
    return made


def lines(sweep: Sweep, width: int | None = None, most: int | None = None) -> list[str]:
    elements = sweep.elements()
    return SweepTable(sweep, elements).render(dict(enumerate(STATES)), width, most).plain.splitlines()


def test_a_line_a_job_with_its_newest_figures(sweep: Sweep) -> None:
    title, head, *rows = lines(sweep)
    assert title == "sweeps/lr: 1 done, 1 failed, 1 running, 1 waiting; best eval/new_style/top1"
    assert head.split() == ["job", "state", "step", "best", "loss", "samples/s", "note"]
    assert rows[0].split() == ["0", "seed=0,optim.weight_decay=0.05", "done", "9/9", "0.5", "0.1235", "6543"]
    assert rows[1].split()[2:] == ["running", "4/9", "0.75", "0.1235", "6543", "process", "4711", "on", "host"]
    assert rows[2].split()[2:4] == ["failed", "0/9"]
    assert rows[3].split() == ["3", "seed=3,optim.weight_decay=0.05", "waiting"]


@pytest.mark.parametrize("width", [120, 106, 80, 60, 48])
def test_lines_fit_the_terminal_and_still_tell_the_jobs_apart(sweep: Sweep, width: int) -> None:
    _, head, *rows = lines(sweep, width)
    assert max(map(len, [head, *rows])) <= width
    assert len({row.split()[1] for row in rows}) == 4 or width < 60
    assert [state for row, state in zip(rows, STATES, strict=True) if state.state not in row] == []
    assert "best" in head
    assert ("note" in head, "loss" in head, "samples/s" in head) == (width > 48, width >= 100, width >= 100)
    table = SweepTable(sweep, sweep.elements()).render(dict(enumerate(STATES)), width)
    assert len(Console(width=width).render_lines(table)) == 6, "nothing is folded"


def test_those_that_run_or_failed_stay_where_there_is_no_room_for_all(sweep: Sweep) -> None:
    *_, second, third, rest = lines(sweep, most=3)
    assert (second.split()[0], third.split()[0], rest) == ("1", "2", "and 2 more")
    assert len(lines(sweep, most=4)) == 6


def test_columns_that_hold_nothing_are_not_shown(sweep: Sweep) -> None:
    element = sweep.element(3)
    _, head, _ = SweepTable(sweep, [element]).render({3: Status(State.WAITING)}).plain.splitlines()
    assert head.split() == ["job", "state", "step"]


def test_the_best_is_that_of_the_metric_and_its_direction(sweep: Sweep) -> None:
    best = SweepTable(sweep, sweep.elements()).best()
    assert best is not None
    assert (best[0].index, best[1]) == (1, 0.75)
    write_search(sweep, Search("tpe", METRIC, "min", 0, ()))
    best = SweepTable(sweep, sweep.elements()).best()
    assert best is not None
    assert (best[0].index, best[1]) == (0, 0.5)
    write_base(sweep, [], {"callback": {}})
    (sweep.path / "search.json").unlink()
    assert SweepTable(sweep, sweep.elements()).best() is None


def test_what_a_search_drew_is_shown_to_four_digits() -> None:
    drawn = ["optim.lr=0.00012345678901234567", "seed=123456", "model=vit", "optim.x=-2.5e-09", "a=true", "b=0.5"]
    assert brief(drawn) == "optim.lr=1.235e-4 seed=123456 model=vit optim.x=-2.5e-9 a=true b=0.5"


def test_progress_reads_only_what_is_new_and_all_of_a_record_that_was_cut(tmp_path: Path) -> None:
    progress = Progress(RunDirectory(tmp_path / "run"), Metric(METRIC, "min"))
    assert (progress.refresh().step, progress.total_steps) == (0, None)
    write_rows(tmp_path / "run", {"step": 1, "train/loss": 2.0, METRIC: 0.5}, {"step": 2, METRIC: "NaN"})
    record = tmp_path / "run" / "metrics.jsonl"
    with record.open("a") as file:
        file.write('{"step": 3, "train/lo')
    assert (progress.refresh().step, progress.loss, progress.best, progress.total_steps) == (2, 2.0, 0.5, 9)
    with record.open("a") as file:
        file.write('ss": 1.5}\n')
    before = record.read_bytes()
    # What was read is not read again: damage there goes unseen.
    record.write_bytes(b"x" * before.index(b"\n") + before[before.index(b"\n") :])
    assert (progress.refresh().step, progress.loss, progress.best) == (3, 1.5, 0.5)
    resumed = record.with_name("resumed")
    resumed.write_text(json.dumps({"step": 1, "train/loss": 9.0, "throughput/longer_than_before" * 9: 1.0}) + "\n")
    os.replace(resumed, record)
    assert (progress.refresh().step, progress.loss, progress.best) == (1, 9.0, None)
    assert progress.metrics == set()


@pytest.mark.parametrize(
    ("mode", "value", "than", "better"),
    [
        ("max", 2.0, 1.0, True),
        ("max", 1.0, 2.0, False),
        ("min", 1.0, 2.0, True),
        ("max", math.nan, None, False),
        ("max", math.nan, 1.0, False),
        ("min", 1.0, None, True),
    ],
)
def test_a_number_is_better_than_none_and_nan_is_never(
    mode: str, value: float, than: float | None, better: bool
) -> None:
    assert Metric("m", "max" if mode == "max" else "min").better(value, than) is better
