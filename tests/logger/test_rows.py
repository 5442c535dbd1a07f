from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmtrain.errors import RunError
from mmtrain.logger.rows import Tail, line_of, read_rows


def test_what_is_not_finite_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(line_of({"step": 1, "a": math.nan, "b": math.inf, "c": -math.inf, "d": 0.5}))
    (row,) = read_rows(path)
    assert math.isnan(row.pop("a"))
    assert row == {"step": 1, "b": math.inf, "c": -math.inf, "d": 0.5}


def test_a_tail_gives_whole_rows_once_as_they_come(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tail = Tail(path)
    assert tail.read() == ([], False)
    path.write_text('{"step": 1, "a": "Infinity"}\n{"step": 2, "a"')
    assert tail.read() == ([{"step": 1, "a": math.inf}], False)
    assert tail.read() == ([], False)
    with path.open("a") as file:
        file.write(': "-Infinity"}\n{"step": 3}\n')
    assert tail.read() == ([{"step": 2, "a": -math.inf}, {"step": 3}], False)


def test_a_tail_begins_anew_where_the_record_was_cut_or_replaced(tmp_path: Path) -> None:
    path, other = tmp_path / "metrics.jsonl", tmp_path / "other"
    path.write_text('{"step": 1}\n{"step": 2}\n')
    tail = Tail(path)
    tail.read()
    path.write_text('{"step": 1}\n')
    assert tail.read() == ([{"step": 1}], True)
    other.write_text('{"step": 1}\n{"step": 5}\n')
    os.replace(other, path)
    assert tail.read() == ([{"step": 1}, {"step": 5}], True)
    path.rename(other)
    assert tail.read() == ([], False), "out of reach for a moment, it is not forgotten"
    other.rename(path)
    assert tail.read() == ([], False)


def test_damaged_lines_are_counted_by_a_tail_and_refused_in_a_record(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"ste\n[2]\n{"a": 1}\n{"step": 5}\n')
    tail = Tail(path)
    assert tail.read() == ([{"step": 1}, {"step": 5}], False)
    assert tail.damaged == 3
    with pytest.raises(RunError, match="damaged") as caught:
        list(read_rows(path))
    assert str(caught.value.where).endswith("metrics.jsonl:2")


def test_rows_are_read_without_pytorch() -> None:
    check = "import sys, mmtrain.logger.rows; assert not {'torch', 'lightning'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True, timeout=60)
