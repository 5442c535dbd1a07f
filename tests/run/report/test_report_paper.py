"""A paper's file: read strictly, every mistake told with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmtrain.errors import ConfigError
from mmtrain.run.report.curves import FigureQuestion
from mmtrain.run.report.paper import Paper, read_paper
from mmtrain.run.report.question import Question

WHOLE = """\
title: Our paper
runs: sweeps/lr
labels: {optim.lr: learning rate}
tables:
  main:
    rows: optim.lr
    cols: data.mix
    metric: [eval/val/accuracy, eval/val/loss]
    mode: [max, min]
    baseline: 1e-3
    test: bootstrap
    at: best
    over: [seed, data.fold]
    where: {model.d_model: 64, data.flip: true}
    percent: eval/val/accuracy
    labels: {0.001: slow}
    caption: Learning rates.
  other:
    runs: [runs/a, runs/b]
    rows: [model, optim.lr]
    metric: eval/val/accuracy
figures:
  curves:
    metric: train/loss
    lines: optim.lr
    x: samples
    log_y: true
"""


def read(tmp_path: Path, text: str) -> Paper:
    (tmp_path / "paper.yaml").write_text(text)
    return read_paper(tmp_path / "paper.yaml")


def test_every_key_is_read(tmp_path: Path) -> None:
    paper = read(tmp_path, WHOLE)
    shared = (Path("sweeps/lr"),)
    assert paper == Paper(
        "Our paper",
        {
            "main": (
                shared,
                Question(
                    rows=("optim.lr",),
                    cols="data.mix",
                    metrics=("eval/val/accuracy", "eval/val/loss"),
                    mode=("max", "min"),
                    baseline="1e-3",
                    test="bootstrap",
                    at="best",
                    over=("seed", "data.fold"),
                    where={"model.d_model": "64", "data.flip": "true"},
                    percent=("eval/val/accuracy",),
                    labels={"optim.lr": "learning rate", "1e-3": "slow"},
                    caption="Learning rates.",
                ),
            ),
            "other": (
                (Path("runs/a"), Path("runs/b")),
                Question(("model", "optim.lr"), ("eval/val/accuracy",), labels={"optim.lr": "learning rate"}),
            ),
        },
        {
            "curves": (
                shared,
                FigureQuestion(
                    "train/loss", ("optim.lr",), x="samples", log_y=True, labels={"optim.lr": "learning rate"}
                ),
            )
        },
    )


def test_runs_of_the_command_line_stand_in_for_those_of_the_file_and_not_for_an_entrys_own(tmp_path: Path) -> None:
    (tmp_path / "paper.yaml").write_text(WHOLE)
    paper = read_paper(tmp_path / "paper.yaml", (Path("elsewhere"),))
    assert [roots for roots, _ in paper.tables.values()] == [(Path("elsewhere"),), (Path("runs/a"), Path("runs/b"))]


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("    rows: optim.lr", "    rwos: optim.lr", 6, r"(?s)unknown key 'rwos'.*did you mean 'rows'"),
        ("title: Our", "titel: Our", 1, r"(?s)unknown key 'titel'.*did you mean 'title'"),
        ("    log_y: true", "    log_x: true", 27, r"(?s)unknown key 'log_x'.*did you mean 'log_y'"),
        (
            "    percent: eval/val/acc",
            "    percent: val/acc",
            15,
            r"(?s)is no metric of the table.*did you mean 'eval/val/acc",
        ),
        ("    log_y: true", "    log_y: 1", 27, r"figures.curves.log_y is no true or false: 1"),
        ("    mode: [max, min]", "    mode: [max, most]", 9, r"tables.main.mode is no one of max, min"),
        ("    test: bootstrap", "    test: t-test", 11, r"is no one of paired-t, bootstrap, none: 't-test'"),
        ("    cols: data.mix", "    cols: [data.mix, seed]", 7, r"tables.main.cols is no text"),
        ("    rows: optim.lr", "    rows: []", 6, r"tables.main.rows is no name, or list of names"),
        ("    where: {model", "    where: model #", 14, r"tables.main.where is no mapping"),
        ("    metric: train/loss\n", "", 23, r"(?s)figures.curves lacks 'metric'.*add metric"),
        ("  main:", "  ../main:", 5, r"is to be the name of a file"),
        ("  main:", "  other:", None, r"not valid YAML.*duplicate key other|duplicate key"),
        ("runs: sweeps/lr\n", "", 4, r"(?s)tables.main names no runs"),
        ("title: Our paper", "title: [", None, r"not valid YAML"),
    ],
)
def test_a_mistake_is_told_with_its_line_and_the_mend(
    tmp_path: Path, old: str, new: str, line: int | None, message: str
) -> None:
    assert old in WHOLE
    with pytest.raises(ConfigError, match=message) as caught:
        read(tmp_path, WHOLE.replace(old, new, 1))
    where = str(tmp_path / "paper.yaml")
    assert caught.value.where == (where if line is None else f"{where}:{line}")


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "is no mapping"), ("title: x", "neither a table nor a figure"), ("- a", "is no mapping")],
)
def test_a_file_that_asks_nothing_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, text)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_paper(tmp_path / "missing.yaml")
