"""Processes of a sweep on one machine: which GPUs they see, how many there are, and that none outlives the command."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from mmtrain.errors import ConfigError
from mmtrain.run.sweep.local import Pool, require_share, share, threads
from mmtrain.run.sweep.plan import Element, Sweep

ELEMENTS = [Element(index, f"x={index}", f"runs/x={index}", (), (f"x={index}",), ()) for index in range(4)]
# Stands for Python: notes how it was called, then does what the test wants of it.
PROGRAM = """#!/bin/bash
echo "$$ $6 $OMP_NUM_THREADS $CUDA_VISIBLE_DEVICES" >>"$5/called"
{body}
"""


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    (tmp_path / "logs").mkdir()
    return Sweep(tmp_path)


def pool_of(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch, body: str, slots: int, devices: tuple[str, ...] = ()
) -> Pool:
    program = sweep.path / "python"
    program.write_text(PROGRAM.format(body=body))
    program.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(program))
    return Pool(sweep, ELEMENTS, slots, devices)


def called(sweep: Sweep) -> list[list[str]]:
    path = sweep.path / "called"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def finish(pool: Pool) -> int:
    """Runs all jobs; returns the most that ran at a time."""
    most = 0
    while pool.busy:
        pool.step()
        most = max(most, len(pool.running))
        time.sleep(0.01)
    return most


def has_ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


def test_every_job_runs_once_and_never_more_than_there_are_slots(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    pool = pool_of(sweep, monkeypatch, "sleep 0.05; [[ $6 != 2 ]]", 2, ("0", "1", "2"))
    assert finish(pool) == 2
    assert sorted(words[1] for words in called(sweep)) == ["0", "1", "2", "3"]
    assert {words[2] for words in called(sweep)} == {str(threads(2))}
    assert {words[3] for words in called(sweep)} == {"0,2", "1"}
    assert pool.ended == {0: 0, 1: 0, 2: 1, 3: 0}


def test_what_another_command_has_done_in_the_meantime_is_not_started(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = pool_of(sweep, monkeypatch, ":", 1)
    pool.step()
    for index in (1, 3):
        sweep.run(ELEMENTS[index]).path.mkdir(parents=True)
        sweep.run(ELEMENTS[index]).done.touch()
    finish(pool)
    assert [words[1] for words in called(sweep)] == ["0", "2"]


def test_jobs_that_are_stopped_get_time_to_save_and_no_other_is_started(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = pool_of(
        sweep, monkeypatch, 'trap "touch $5/saved; exit 0" TERM; touch $5/ready; while :; do sleep 0.02; done', 1
    )
    pool.step()
    while not (sweep.path / "ready").exists():
        time.sleep(0.01)
    pool.stop(grace_seconds=60)
    assert (sweep.path / "saved").exists()
    assert (pool.busy, pool.ended) == (False, {0: 0})


def test_jobs_that_do_not_go_are_killed_with_the_processes_that_they_started(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = pool_of(sweep, monkeypatch, 'trap "" TERM; sleep 300 & echo $! >$5/child; wait; wait', 1)
    pool.step()
    while not (sweep.path / "child").exists() or not (sweep.path / "child").read_text():
        time.sleep(0.01)
    pool.stop(grace_seconds=0.1)
    assert pool.ended == {0: -9}
    child = int((sweep.path / "child").read_text())
    deadline = time.monotonic() + 30
    while not has_ended(child):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_gpus_are_shared_out_so_that_all_are_used() -> None:
    four = ["0", "1", "2", "3"]
    assert [share(four, slot, 2) for slot in range(2)] == [["0", "2"], ["1", "3"]]
    assert [share(four[:1], slot, 2) for slot in range(2)] == [["0"], ["0"]]
    assert threads(10**6) == 1


def test_more_jobs_at_a_time_than_the_gpus_suffice_for_are_refused() -> None:
    four = ["0", "1", "2", "3"]
    require_share(2, four, 2)
    require_share("auto", four, 3)
    require_share(8, [], 2)
    require_share(1, four, 9)
    with pytest.raises(ConfigError, match="need more than the 4") as error:
        require_share(2, four, 3)
    assert error.value.mend == "--jobs 2"
    with pytest.raises(ConfigError) as error:
        require_share(8, four, 1)
    assert error.value.mend == "trainer.devices=4"
