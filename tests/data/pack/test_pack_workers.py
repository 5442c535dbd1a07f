"""Workers: each task is done once, and whatever ends one of them early is told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmtrain.data.pack.workers import run_tasks
from mmtrain.errors import DataError, RunError


def square(number: int) -> tuple[int, int]:
    return number**2, os.getpid()


def refuse(number: int) -> int:
    raise DataError(f"no {number}", where="here", mend="another")


def fail(number: int) -> int:
    raise ZeroDivisionError(f"at {number}")


def die(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def linger(folder: Path) -> None:
    (folder / str(os.getpid())).touch()
    time.sleep(1)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 40])
def test_each_task_is_done_once(count: int) -> None:
    results = list(run_tasks(square, range(count), 3))
    assert sorted(number for number, _ in results) == [number**2 for number in range(count)]
    assert {process for _, process in results} - {os.getpid()} == {process for _, process in results}
    assert len({process for _, process in results}) == min(count, 3) or count > 3


def test_one_worker_is_this_process() -> None:
    assert list(run_tasks(square, range(3), 1)) == [(number**2, os.getpid()) for number in range(3)]


def test_a_workers_refusal_arrives_whole() -> None:
    with pytest.raises(DataError) as refused:
        list(run_tasks(refuse, range(4), 2))
    assert (refused.value.where, refused.value.mend) == ("here", "another")


def test_a_workers_failure_arrives_with_its_traceback() -> None:
    with pytest.raises(RunError, match=r"(?s)in fail.*ZeroDivisionError: at 0"):
        list(run_tasks(fail, [0], 2))


@pytest.mark.timeout(60)
def test_a_killed_worker_is_an_error_and_not_a_hang() -> None:
    with pytest.raises(RunError, match=r"a worker was killed \(exit code (-9|255)\)"):
        list(run_tasks(die, range(10), 2))


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_workers_leave_when_their_caller_is_killed(tmp_path: Path) -> None:
    script = (
        "import itertools, pathlib, test_pack_workers as t\n"
        f"list(t.run_tasks(t.linger, itertools.repeat(pathlib.Path({str(tmp_path)!r})), 2))\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    caller = subprocess.Popen([sys.executable, "-c", script], env=environment)
    while len(list(tmp_path.iterdir())) < 2:
        assert caller.poll() is None
        time.sleep(0.05)
    caller.kill()
    caller.wait()
    workers = [int(path.name) for path in tmp_path.iterdir()]
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        time.sleep(0.1)
