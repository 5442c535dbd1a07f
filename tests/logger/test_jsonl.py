"""The record of truth survives kills, and cuts what will be written again."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmtrain.errors import RunError
from mmtrain.logger.jsonl import JsonlLogger
from mmtrain.logger.rows import read_rows


def test_a_row_is_on_disk_as_soon_as_it_is_logged(tmp_path: Path) -> None:
    logger = JsonlLogger(tmp_path)
    logger.log_metrics({"train/loss": 0.1}, step=3)
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 3, "train/loss": 0.1}


def test_rows_after_the_resumed_step_and_a_torn_line_are_cut(tmp_path: Path) -> None:
    first = JsonlLogger(tmp_path)
    for step in (1, 2, 3):
        first.log_metrics({"train/loss": 1 / 3 / step}, step=step)
    before = (tmp_path / "metrics.jsonl").read_text().splitlines()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "train/lo')
    JsonlLogger(tmp_path, resume_step=2).log_metrics({"train/loss": 9.0}, step=3)
    after = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert after[:2] == before[:2]
    assert json.loads(after[2]) == {"step": 3, "train/loss": 9.0} and len(after) == 3


def test_numbers_that_json_lacks_come_back(tmp_path: Path) -> None:
    row = {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 0.1 + 0.2}
    logger = JsonlLogger(tmp_path)
    logger.log_metrics(row, step=1)
    json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=pytest.fail)
    (back,) = read_rows(tmp_path / "metrics.jsonl")
    assert math.isnan(back["a"]) and (back["b"], back["c"], back["d"]) == (math.inf, -math.inf, 0.1 + 0.2)
    JsonlLogger(tmp_path, resume_step=1).log_metrics({}, step=2)
    assert math.isnan(next(read_rows(tmp_path / "metrics.jsonl"))["a"])


def test_a_damaged_row_in_the_middle_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"ste\n{"step": 3}\n')
    with pytest.raises(RunError, match="metrics.jsonl:2"):
        list(read_rows(tmp_path / "metrics.jsonl"))


def test_rows_after_finalize_are_appended(tmp_path: Path) -> None:
    logger = JsonlLogger(tmp_path)
    logger.log_metrics({"a": 1.0}, step=5)
    logger.finalize("success")
    logger.log_metrics({"b": 2.0}, step=5)
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")] == [5, 5]


def test_ranks_other_than_the_first_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    JsonlLogger(tmp_path).log_metrics({"a": 1.0}, step=1)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_pictures_and_tables_are_files_of_their_step(tmp_path: Path) -> None:
    logger = JsonlLogger(tmp_path)
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    logger.log_image("eval/samples", pixels, step=7)
    png = tmp_path / "media/eval/samples/step_00000007.png"
    assert np.array_equal(np.asarray(Image.open(png)), pixels)
    logger.log_image("eval/copies", png, step=8)
    assert (tmp_path / "media/eval/copies/step_00000008.png").read_bytes() == png.read_bytes()
    logger.log_table("eval/words", ["word", "count"], [["a,b", 2], [None, 0.5]], step=7)
    assert (tmp_path / "media/eval/words/step_00000007.csv").read_text().splitlines() == [
        "word,count",
        '"a,b",2',
        ",0.5",
    ]
