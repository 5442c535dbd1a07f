"""What became of a job, as its run directory and its processes' last words tell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tiny_run import ROOT

from mmtrain.run.sweep.plan import Element, Sweep
from mmtrain.run.sweep.state import State, Status, counts, said_error, status

ELEMENT = Element(3, "seed=3", "runs/seed=3", ("seed=3",), ("seed=3",), ())


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    (tmp_path / "logs").mkdir()
    return Sweep(tmp_path)


def begin(sweep: Sweep, reason: str | None = None, total_steps: int = 9) -> Path:
    run = sweep.run(ELEMENT).path
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.yaml").touch()
    content = {"schema": 1, "total_steps": total_steps, "segments": [{"reason": "preempted"}, {"reason": reason}]}
    (run / "manifest.json").write_text(json.dumps(content))
    return run


def say(sweep: Sweep, text: str, name: str = "local_3.out", age: float = -10) -> Path:
    path = sweep.logs / name
    path.write_text(text)
    manifest = sweep.run(ELEMENT).path / "manifest.json"
    moment = (manifest if manifest.exists() else path).stat().st_mtime - age
    os.utime(path, (moment, moment))
    return path


@contextmanager
def held(run: Path, **environment: str) -> Iterator[int]:
    """The run directory, held by another process."""
    script = (
        f"import sys; from pathlib import Path; from mmtrain.run.lock import take_lock\n"
        f"lock = take_lock(Path({str(run)!r})); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        try:
            yield process.pid
        finally:
            process.kill()


def test_a_job_that_nobody_began_waits_also_in_the_queue(sweep: Sweep) -> None:
    assert status(sweep, ELEMENT) == Status(State.WAITING)
    assert status(sweep, ELEMENT, {3: "job 7_3 pending"}) == Status(State.WAITING, "job 7_3 pending")
    assert status(sweep, ELEMENT).is_missing


def test_a_marker_says_done_whatever_was_said_before(sweep: Sweep) -> None:
    (begin(sweep, "finished") / "DONE").touch()
    say(sweep, "error: of an earlier start\n")
    assert status(sweep, ELEMENT) == Status(State.DONE)
    assert not status(sweep, ELEMENT).is_missing


def test_a_job_runs_while_its_directory_is_held_and_was_killed_when_it_is_not(sweep: Sweep) -> None:
    run = begin(sweep, None)
    with held(run, SLURM_JOB_ID="77") as pid:
        found = status(sweep, ELEMENT, {3: "job 77_3 running"})
        assert (found.state, found.is_missing) == (State.RUNNING, False)
        assert found.note.startswith("job 77 on ")
    with held(run) as pid:
        assert status(sweep, ELEMENT).note.startswith(f"process {pid} on ")
    assert status(sweep, ELEMENT) == Status(State.FAILED, "it was killed")


def test_a_preempted_job_says_where_it_goes_on_and_fails_if_its_next_start_fails(sweep: Sweep) -> None:
    run = begin(sweep, "preempted")
    (run / "REQUEUE").write_text("5\n")
    say(sweep, "ValueError: of an earlier start\n", age=10)
    assert status(sweep, ELEMENT) == Status(State.PREEMPTED, "at step 5")
    assert status(sweep, ELEMENT, {3: "job 7_3 pending"}) == Status(State.PREEMPTED, "job 7_3 pending")
    say(sweep, "error: the disk is full\n  where: /data\n")
    assert status(sweep, ELEMENT, {3: "job 7_3 pending"}).state == State.PREEMPTED, "it is on its way again"
    assert status(sweep, ELEMENT) == Status(State.FAILED, "the disk is full (/data)")


def test_a_failure_is_told_in_the_words_of_the_newest_start(sweep: Sweep) -> None:
    say(sweep, "Traceback (most recent call last):\n  File x\nImportError: no module\n")
    assert status(sweep, ELEMENT) == Status(State.FAILED, "ImportError: no module")
    begin(sweep, "failed: ValueError: the loss is not finite")
    say(sweep, "ImportError: no module\n", age=10)
    assert status(sweep, ELEMENT) == Status(State.FAILED, "ValueError: the loss is not finite")
    say(sweep, "mmtrain.errors.DataError: a shard is gone\nsrun: error: n1: task 0: Exited with exit code 1\n")
    assert status(sweep, ELEMENT) == Status(State.FAILED, "DataError: a shard is gone")
    assert status(sweep, ELEMENT, {3: "job 7_3 running"}) == Status(State.WAITING, "job 7_3 running"), "it starts again"


def test_what_slurm_says_counts_where_the_job_could_say_nothing(sweep: Sweep) -> None:
    begin(sweep, None)
    say(sweep, "training\nslurmstepd: error: Detected 1 oom_kill event\n", name="slurm_8_3.out")
    assert status(sweep, ELEMENT).note == "slurmstepd: error: Detected 1 oom_kill event"


def test_only_what_was_said_since_the_job_was_queued_again_counts(tmp_path: Path) -> None:
    output = tmp_path / "slurm_8_3.out"
    again = "2026-01-01T00:00:00 job 8: ended with status 1 at step 9, after step 3: queued again, to go on in run\n"
    output.write_text(f"ValueError: once\n{again}training\n")
    assert said_error(output, tmp_path / "none") is None
    output.write_text(f"ValueError: once\n{again}KeyError: twice\n")
    assert said_error(output, tmp_path / "none") == "KeyError: twice"


def test_a_damaged_manifest_and_the_output_of_another_job_do_not_matter(sweep: Sweep) -> None:
    run = begin(sweep, None)
    (run / "manifest.json").write_text("{")
    say(sweep, "error: not this one\n", name="local_13.out")
    assert status(sweep, ELEMENT) == Status(State.FAILED, "it was killed")


def test_jobs_are_counted_the_finished_first() -> None:
    found = [Status(State.WAITING), Status(State.DONE), Status(State.FAILED, "x"), Status(State.DONE)]
    assert counts(found) == "2 done, 1 failed, 1 waiting"


def test_without_locks_the_holder_on_this_machine_is_looked_for(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    run = begin(sweep, None)
    monkeypatch.setattr("mmtrain.run.sweep.state.run_state", lambda path: "unknown")
    with held(run) as pid:
        assert status(sweep, ELEMENT).note.startswith(f"process {pid} on ")
    assert status(sweep, ELEMENT).state == State.FAILED
