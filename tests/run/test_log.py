from __future__ import annotations

import logging
import warnings
from pathlib import Path

import pytest

from mmtrain.errors import RunError
from mmtrain.run.log import logged, shown


def test_warnings_and_the_error_that_ends_a_run_stand_in_its_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "log.txt"

    def run() -> None:
        logging.getLogger("mmtrain.test").info("step 1")
        warnings.warn("a shard is slow", stacklevel=1)
        raise RunError("the disk is full")

    with pytest.raises(RunError), shown(), logged(path):
        run()
    said = path.read_text()
    assert "mmtrain.test: step 1" in said
    assert "a shard is slow" in said
    assert "ended by an error" in said and "RunError: the disk is full" in said
    console = capfd.readouterr().err
    assert "a shard is slow" in console
    assert "step 1" not in console and "Traceback" not in console


def test_a_second_run_adds_to_the_log(tmp_path: Path) -> None:
    for number in range(2):
        with logged(tmp_path / "log.txt"):
            logging.getLogger("mmtrain.test").info("start %d", number)
        logging.getLogger("mmtrain.test").warning("outside")
    assert [line.rpartition(": ")[2] for line in (tmp_path / "log.txt").read_text().splitlines()] == [
        "start 0",
        "start 1",
    ]
