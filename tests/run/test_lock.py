"""One job a run directory, with locks of the file system and without; ranks live no longer than who started them."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mmtrain.errors import RunError
from mmtrain.run import lock
from mmtrain.run.directory import open_run
from mmtrain.run.lock import await_rank_0, read_holder, take_lock
from mmtrain.run.process import this_process

ROOT = Path(__file__).parents[2]
JOB = {"MASTER_ADDR": "node1", "MASTER_PORT": "29500", "RANK": "0", "TORCHELASTIC_RUN_ID": "a"}
HOLD = """
import sys
from pathlib import Path
from mmtrain.run.lock import take_lock
held = take_lock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def start(script: str, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    variables = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the directory."""
    with start(HOLD, tmp_path) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.lockf", fail)
    monkeypatch.setattr(lock, "_SETTLE_S", 0.1)


def change_holder(directory: Path, **fields: Any) -> None:
    """As if the record had been written elsewhere."""
    record = json.loads((directory / "lock").read_text())
    (directory / "lock").write_text(json.dumps(record | fields))


def test_the_refusal_names_the_holder_and_its_last_sign_of_life(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    with pytest.raises(RunError, match=rf'"pid": {holder.pid}.* last sign of life \d+ s ago') as refused:
        take_lock(tmp_path)
    assert "name=" in str(refused.value.mend) and "delete" not in str(refused.value.mend)


def test_a_lock_that_outlived_its_node_is_told_with_the_mend(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    change_holder(tmp_path, host="node7", process={"machine": "another", "started": 1})
    with pytest.raises(RunError, match="where node7 is down, try again 5 minutes after"):
        take_lock(tmp_path)
    os.utime(tmp_path / "lock", (0, time.time() - 3600))
    with pytest.raises(RunError, match=r"node7 is down and the file server does not notice, delete .*/lock"):
        take_lock(tmp_path)


@pytest.mark.usefixtures("no_locks")
def test_without_locks_a_living_holder_is_refused_and_a_dead_one_is_not(
    holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    with pytest.raises(RunError, match=f'"pid": {holder.pid}'):
        take_lock(tmp_path)
    holder.kill()
    holder.wait()
    take_lock(tmp_path).release()


@pytest.mark.usefixtures("no_locks")
def test_without_locks_a_number_that_is_another_process_by_now_is_no_holder(tmp_path: Path) -> None:
    take_lock(tmp_path)
    with pytest.raises(RunError):
        take_lock(tmp_path)
    started = this_process().started
    change_holder(tmp_path, process={"machine": this_process().machine, "started": started - 1})
    take_lock(tmp_path).release()


@pytest.mark.usefixtures("no_locks")
def test_without_locks_another_host_holds_as_long_as_it_gives_signs_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setattr(time, "time", lambda: 0.0)  # this host's clock counts for nothing
    take_lock(tmp_path)
    change_holder(tmp_path, host="node7", process={"machine": "another", "started": 1})
    with pytest.raises(RunError, match="node7"):
        take_lock(tmp_path)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    take_lock(tmp_path)  # SLURM starts a job again only when all of it has ended
    change_holder(tmp_path, host="node7", process={"machine": "another", "started": 1}, job="4712")
    stat = (tmp_path / "lock").stat()
    os.utime(tmp_path / "lock", (stat.st_atime, stat.st_mtime - 301))
    take_lock(tmp_path).release()


@pytest.mark.usefixtures("no_locks")
def test_without_locks_of_two_that_come_at_once_one_gets_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def another_writes(seconds: float) -> None:
        change_holder(tmp_path, token="another")

    monkeypatch.setattr("mmtrain.run.lock.time.sleep", another_writes)
    with pytest.raises(RunError, match="another job"):
        take_lock(tmp_path)


def test_signs_of_life_are_given_and_do_not_give_up_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_TOUCH_S", 0.05)
    held = take_lock(tmp_path)
    os.utime(tmp_path / "lock", (0, 0))
    deadline = time.monotonic() + 20
    while (tmp_path / "lock").stat().st_mtime == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    with start(HOLD, tmp_path) as other:
        assert other.stdout is not None and other.stdout.read() == "" and other.wait() != 0
    held.release()
    assert read_holder(tmp_path) is None


def test_other_ranks_begin_when_rank_0_has_the_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in JOB.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(lock, "_RANK_0_S", 0.5)
    with pytest.raises(RunError, match="rank 0 did not open"):
        await_rank_0(tmp_path)
    run = open_run(tmp_path, {})
    monkeypatch.setenv("RANK", "1")
    assert open_run(tmp_path, {}).path == tmp_path
    run.close()


def test_other_ranks_of_a_refused_job_end_at_once_and_without_a_word(
    holder: subprocess.Popen[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in JOB.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RunError, match="another job"):
        open_run(tmp_path, {})
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit) as ended:
        open_run(tmp_path, {})
    assert ended.value.code == 1
    monkeypatch.setenv("RANK", "0")
    holder.kill()
    holder.wait()
    open_run(tmp_path, {}).close()
    assert not list(tmp_path.glob(".refused-*"))


LAUNCH = """
import os, subprocess, sys, time
from mmtrain.run.launch import tied_to_launcher
with tied_to_launcher():
    if "LOCAL_RANK" not in os.environ:
        subprocess.Popen([sys.executable, *sys.argv[1:], "-c", SCRIPT], env=os.environ | {"LOCAL_RANK": "1"})
    else:
        print(os.getpid(), flush=True)
    time.sleep(600)
"""


def test_a_rank_ends_with_the_process_that_started_it() -> None:
    with start(f"SCRIPT = {LAUNCH!r}\n{LAUNCH}") as launcher:
        assert launcher.stdout is not None
        assert launcher.stdout.readline().strip().isdecimal()
        launcher.kill()
        assert launcher.stdout.read() == "", "the pipe is closed when the rank is gone, too"
