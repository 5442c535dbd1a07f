"""One bar for the whole run, and plain lines in a log file."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console
from toy_run import BATCH, train

from mmtrain.callback.progress import RunProgress


def lines(directory: Path, max_steps: int, **options: int) -> list[str]:
    file = io.StringIO()
    bar = RunProgress(BATCH, line_every_percent=25, console=Console(file=file, width=60))
    train(directory, max_steps=max_steps, extra=[bar], enable_progress_bar=True, **options)
    assert "\x1b" not in file.getvalue()
    return file.getvalue().splitlines()


def test_a_log_file_gets_a_line_every_share_of_the_run(tmp_path: Path) -> None:
    said = lines(tmp_path, 20, eval_every=10)
    assert [line.split()[1] for line in said] == ["1/20", "5/20", "10/20", "10", "15/20", "20/20", "20"]
    assert "loss" in said[1] and "epoch 1.25" in said[1] and "nan" not in said[1]
    assert "eval/new/mean" in said[3]


def test_a_terminal_gets_one_bar_with_the_whole_run(tmp_path: Path) -> None:
    file = io.StringIO()
    bar = RunProgress(BATCH, console=Console(file=file, width=120, force_terminal=True))
    train(tmp_path, max_steps=6, eval_every=3, extra=[bar], enable_progress_bar=True)
    assert "6/6" in file.getvalue() and "evaluate" in file.getvalue()
