"""``eval``: the numbers of the training run, of any checkpoint, on any data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tiny_run import STEPS, Program, rows, write_shapes

from mmtrain.callback.checkpoint import read_best
from mmtrain.logger.rows import read_rows

pytestmark = pytest.mark.slow


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, in a directory whose name is no override."""
    return Path(shutil.copytree(finished, tmp_path / "lr=1, b", ignore=shutil.ignore_patterns("wandb", "media")))


def evaluated(run: Path, step: int) -> dict[str, float]:
    (place,) = (run / "eval").glob(f"step_{step:08d}-*")
    *_, row = read_rows(place / "metrics.jsonl")
    assert row.pop("step") == step
    return row


def logged(run: Path, step: int) -> dict[str, float]:
    (row,) = (row for row in rows(run) if row["step"] == step and "eval/new_style/top1" in row)
    return {key: value for key, value in row.items() if key.startswith("eval/")}


def test_the_best_checkpoint_has_the_numbers_it_was_chosen_for(program: Program, run: Path) -> None:
    best = read_best(run / "checkpoints")
    assert best is not None
    outcome = program("eval", run)
    assert (outcome.status, outcome.err) == (0, "")
    assert f"step_{best.step:08d}.ckpt" in outcome.out.replace("\n", "")
    assert evaluated(run, best.step) == pytest.approx(logged(run, best.step), abs=1e-6)
    (media,) = (run / "eval").glob(f"step_{best.step:08d}-*/media/retrievals/new_style")
    assert [path.name for path in media.glob("*.png")] == [f"step_{best.step:08d}.png"]


def test_a_checkpoint_is_evaluated_by_its_path(program: Program, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run / "checkpoints")
    outcome = program("eval", f"step_{STEPS:08d}.ckpt", "callback.retrievals=null", "data.num_workers=1")
    assert (outcome.status, outcome.err) == (0, "")
    assert evaluated(run, STEPS) == pytest.approx(logged(run, STEPS), abs=1e-6)


def test_without_a_best_the_newest_checkpoint_is_taken(program: Program, run: Path) -> None:
    (run / "checkpoints" / "best.json").unlink()
    assert program("eval", run, "callback.retrievals=null").status == 0
    assert [path.name.partition("-")[0] for path in (run / "eval").iterdir()] == [f"step_{STEPS:08d}"]


def test_other_data_give_other_numbers_under_their_own_names(program: Program, run: Path, tmp_path: Path) -> None:
    write_shapes(tmp_path / "other")
    (tmp_path / "other" / "new_concept").rename(tmp_path / "other" / "mine")
    outcome = program("eval", run, f"data.root={tmp_path / 'other'}", "~data.eval", "+data.eval={mine: retrieval}")
    assert (outcome.status, outcome.err) == (0, "")
    (place,) = (run / "eval").iterdir()
    metrics = evaluated(run, int(place.name.removeprefix("step_").partition("-")[0]))
    assert {key.split("/")[1] for key in metrics} == {"mine", "logit_scale"}
    # The same checkpoint on the run's own data: beside it, and not into it.
    assert program("eval", run, "callback.retrievals=null").status == 0
    assert len(list((run / "eval").glob(f"{place.name.partition('-')[0]}-*"))) == 2


def test_a_torn_best_checkpoint_is_refused(program: Program, run: Path) -> None:
    best = read_best(run / "checkpoints")
    assert best is not None
    (run / "checkpoints" / best.file).write_bytes(b"torn")
    outcome = program("eval", run)
    assert outcome.status == 1
    assert "the checkpoint cannot be used: it has 4 bytes" in outcome.err


def test_nothing_to_evaluate_on_is_said(program: Program, run: Path) -> None:
    outcome = program("eval", run, "data.eval=null")
    assert outcome.status == 1
    assert "there is nothing to evaluate on" in outcome.err
    assert not (run / "eval").exists()


def test_the_model_is_the_runs_whatever_the_experiment_has_become(program: Program, run: Path) -> None:
    origin = json.loads((run / "origin.json").read_text())
    origin["overrides"].append("model.embed_dim=8")
    (run / "origin.json").write_text(json.dumps(origin))
    assert program("eval", run, "callback.retrievals=null").status == 0
