"""The state of a run, by its marks, its history and its lock."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from recorded_runs import ended, write_recorded

from mmtrain.run.state import lock_holder, run_state


@pytest.mark.parametrize(
    ("reason", "marks", "state"),
    [
        ("finished", ("DONE",), "done"),
        ("finished", (), "done"),
        (None, ("DONE",), "done"),
        ("preempted", ("REQUEUE", "lock"), "preempted"),
        (None, ("REQUEUE", "lock"), "preempted"),
        ("preempted", ("lock",), "preempted"),
        ("failed: RunError: x", ("lock",), "failed"),
        ("killed", ("lock",), "killed"),
        (None, ("lock",), "killed"),
        (None, (), "killed"),
    ],
)
def test_a_run_that_nobody_holds_is_in_the_state_in_which_it_ended(
    tmp_path: Path, reason: str | None, marks: tuple[str, ...], state: str
) -> None:
    assert run_state(write_recorded(tmp_path / "run", ended(reason), marks=marks)) == state


def test_a_run_without_or_with_a_damaged_manifest_has_a_state(tmp_path: Path) -> None:
    assert run_state(write_recorded(tmp_path / "old", None, marks=())) == "killed"
    run = write_recorded(tmp_path / "new", marks=())
    (run / "manifest.json").write_text("{")
    assert run_state(run) == "killed"


def test_a_run_that_a_process_holds_is_running_and_the_question_does_not_disturb_it(tmp_path: Path) -> None:
    run = write_recorded(tmp_path / "run", ended(None), marks=())
    script = (
        "import sys; from pathlib import Path; from mmtrain.run.lock import take_lock\n"
        "lock = take_lock(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read(); lock.release()\n"
    )
    command = [sys.executable, "-c", script, str(run)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin is not None and holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert [run_state(run) for _ in range(3)] == ["running"] * 3
        assert lock_holder(run / "lock") == holder.pid
        holder.stdin.close()
    assert lock_holder(run / "lock") == 0
    assert run_state(run) == "killed"


def test_a_lock_that_is_not_there_is_held_by_nobody_and_one_that_cannot_be_asked_is_unknown(tmp_path: Path) -> None:
    assert lock_holder(tmp_path / "lock") == 0
    assert lock_holder(tmp_path / "file" / "lock") == 0
    (tmp_path / "loop").symlink_to("loop")
    assert lock_holder(tmp_path / "loop") is None
