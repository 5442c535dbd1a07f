"""What TensorBoard is given: the numbers of the record, as it grows, is cut, and is written anew."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reported_runs import LOSS, METRIC, config_of, write_picture, write_reported
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from mmtrain.errors import RunError
from mmtrain.logger.jsonl import JsonlLogger
from mmtrain.run.report.events import RunEvents
from mmtrain.run.report.feed import Feed


def rows(run: Path, values: dict[int, float]) -> None:
    """A record put in place of the old one, as a run that goes on from a checkpoint does."""
    lines = [json.dumps({"step": step, LOSS: value}) + "\n" for step, value in values.items()]
    (run / "new").write_text("".join(lines))
    (run / "new").rename(run / "metrics.jsonl")


def scalars(folder: Path, name: str = LOSS) -> dict[int, float]:
    """As the server reads them where it has no faster reader."""
    events = accumulated(folder).Tensors(name)
    assert len({event.step for event in events}) == len(events), "a step is shown twice"
    return {event.step: make_ndarray(event.tensor_proto).item() for event in events}


def accumulated(folder: Path) -> EventAccumulator:
    read = EventAccumulator(str(folder), tensor_size_guidance={"images": 0, "text": 0, "scalars": 0})
    read.Reload()
    return read


def listing(folder: Path) -> list[tuple[str, int, int]]:
    return sorted((str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*"))


def test_what_is_shown_grows_with_the_record_and_a_torn_line_waits(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    events = RunEvents(run, tmp_path / "events", {})
    assert not events.refresh(), "a run that has no record yet"
    (run / "metrics.jsonl").write_text('{"step": 1, "train/loss": 0.5}\n{"step": 2, "train')
    assert events.refresh()
    assert scalars(tmp_path / "events") == {1: 0.5}
    with (run / "metrics.jsonl").open("a") as file:
        file.write('/loss": "NaN"}\n{"step": 2, "eval/val/accuracy": 1}\n')
    assert events.refresh()
    found = scalars(tmp_path / "events")
    assert found[1] == 0.5 and np.isnan(found[2]) and len(found) == 2
    assert scalars(tmp_path / "events", METRIC) == {2: 1.0}
    assert not events.refresh(), "nothing is new"


def test_after_a_resume_the_rows_that_were_cut_are_gone(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    events = RunEvents(run, tmp_path / "events", {})
    rows(run, dict.fromkeys(range(1, 9), 1.0))
    events.refresh()
    rows(run, dict.fromkeys(range(1, 6), 1.0) | {6: 2.0})
    events.refresh()
    assert scalars(tmp_path / "events") == {1: 1.0, 2: 1.0, 3: 1.0, 4: 1.0, 5: 1.0, 6: 2.0}
    rows(run, {1: 3.0})
    events.refresh()
    assert scalars(tmp_path / "events") == {1: 3.0}


def test_a_damaged_row_is_counted_and_the_others_shown(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").write_text('{"step": 1, "train/loss": 0.5}\n{"st\n[1]\n{"step": 4, "train/loss": 0.25}\n')
    events = RunEvents(run, tmp_path / "events", {})
    events.refresh()
    assert scalars(tmp_path / "events") == {1: 0.5, 4: 0.25}
    assert events.damaged == 2


def test_pictures_and_tables_are_shown_once_and_half_a_picture_waits(tmp_path: Path) -> None:
    run = write_reported(tmp_path / "run", config_of("run", 1, 1e-3), {LOSS: [1.0]})
    write_picture(run, "retrievals/val", 1)
    JsonlLogger(run).log_table("samples", ["prompt", "text"], [["a|b", "c\nd"]], 1)
    path = run / "media" / "retrievals" / "val" / "step_00000002.png"
    whole = next(path.parent.glob("*.png")).read_bytes()
    path.write_bytes(whole[:-24])  # its head is whole
    events = RunEvents(run, tmp_path / "events", {})
    events.refresh()
    assert [event.step for event in accumulated(tmp_path / "events").Tensors("retrievals/val")] == [1]
    path.write_bytes(whole)
    events.refresh()
    found = accumulated(tmp_path / "events")
    assert [event.step for event in found.Tensors("retrievals/val")] == [1, 2]
    assert found.Tensors("retrievals/val")[0].tensor_proto.string_val[2] == whole
    (text,) = found.Tensors("samples/table")
    assert [event.step for event in found.Tensors("samples")] == [1], "the number of this name is still one"
    assert text.tensor_proto.string_val[0].decode() == "| prompt | text |\n| --- | --- |\n| a\\|b | c<br>d |"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for number, (seed, lr) in enumerate([(1, 1e-3), (2, 1e-3), (1, 4e-3)]):
        run = tmp_path / "sweep" / "runs" / f"run{number}"
        write_reported(run, config_of(run.name, seed, lr), {LOSS: [1.0, 0.5 + number]})
    return tmp_path / "sweep"


def test_every_run_below_the_roots_is_shown_by_its_place_and_none_is_written_into(tree: Path, tmp_path: Path) -> None:
    before = listing(tree)
    feed = Feed([tree], tmp_path / "events")
    assert feed.refresh() == 3
    assert feed.refresh() == 0
    assert scalars(tmp_path / "events" / "runs" / "run2") == {1: 1.0, 2: 2.5}
    assert listing(tree) == before


def test_a_run_that_begins_later_is_found(tree: Path, tmp_path: Path) -> None:
    now = [0.0]
    feed = Feed([tree], tmp_path / "events", clock=lambda: now[0])
    feed.refresh()
    write_reported(tree / "runs" / "late", config_of("late", 9, 1e-3), {LOSS: [4.0]})
    assert feed.refresh() == 0
    now[0] = 60.0
    assert feed.refresh() == 1
    assert scalars(tmp_path / "events" / "runs" / "late") == {1: 4.0}


def test_a_root_that_goes_away_for_a_while_ends_nothing(tree: Path, tmp_path: Path) -> None:
    now = [0.0]
    feed = Feed([tree], tmp_path / "events", clock=lambda: now[0])
    feed.refresh()
    tree.rename(tmp_path / "away")
    now[0] = 60.0
    assert feed.refresh() == 0
    (tmp_path / "away").rename(tree)
    with (tree / "runs" / "run2" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "train/loss": 9.0}\n')
    assert feed.refresh() == 1
    assert scalars(tmp_path / "events" / "runs" / "run2") == {1: 1.0, 2: 2.5, 3: 9.0}


def test_runs_of_several_roots_do_not_meet(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    other = write_reported(tmp_path / "runs" / "run0", config_of("other", 1, 1e-3), {LOSS: [7.0]})
    Feed([Path("sweep/runs"), Path("runs"), Path("runs")], tmp_path / "a").refresh()
    assert scalars(tmp_path / "a" / "runs" / "run0") == {1: 7.0}
    assert scalars(tmp_path / "a" / "sweep" / "runs" / "run0") == {1: 1.0, 2: 0.5}
    Feed([other], tmp_path / "b").refresh()
    assert scalars(tmp_path / "b" / "run0") == {1: 7.0}
    os.chdir(tree)
    Feed([Path("../runs"), Path("runs")], tmp_path / "c").refresh()
    assert all(path.is_relative_to(tmp_path / "c") for path in (tmp_path / "c").rglob("*tfevents*"))
    assert len(list((tmp_path / "c").rglob("*tfevents*"))) == 4
    with pytest.raises(RunError, match="no such directory"):
        Feed([tmp_path / "missing"], tmp_path / "d")


def test_the_table_of_hyperparameters_has_what_tells_the_runs_apart(tree: Path, tmp_path: Path) -> None:
    Feed([tree], tmp_path / "events").refresh()
    found: Any = accumulated(tmp_path / "events" / "runs" / "run2").PluginTagToContent("hparams")
    (content,) = found.values()
    assert b"optim.lr" in content and b"seed" in content and b"d_model" not in content
