"""Sweeps as a user runs them: planned, run here, filled in, searched; and every mistake told before anything starts."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tiny_run import Program, rows, start, tiny

from mmtrain.command.sweep import sweep as sweep_command
from mmtrain.run.sweep.plan import Sweep
from mmtrain.run.sweep.state import State, status

BASE = "experiment=clip_emoji"
STEPS = 150
DOCS = Path(__file__).parents[2] / "docs" / "sweeps.md"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def shared(shapes: Path) -> list[str]:
    pace = ["trainer.eval_every_n_steps=50", "callback.checkpoint.every_n_steps=10"]
    lines = tiny(shapes, Path("unused"), f"budget.samples={16 * STEPS}", *pace)
    return [line for line in lines if not line.startswith(("run.dir=", "optim.lr="))]


def states(sweep: Sweep) -> list[State]:
    return [status(sweep, element).state for element in sweep.elements()]


def test_without_a_place_to_run_it_plans_and_says_what_would_run(program: Program) -> None:
    done = program("sweep", BASE, "seed=1,2", "optim.lr=1e-3,0.003")
    assert done.status == 0, done.err
    said = done.out.splitlines()
    assert said[0] == "sweeps/clip_emoji: 4 jobs, 4 waiting"
    assert [line.split() for line in said[2:6]] == [
        ["0", "seed=1,optim.lr=1e-3"],
        ["1", "seed=1,optim.lr=3e-3"],
        ["2", "seed=2,optim.lr=1e-3"],
        ["3", "seed=2,optim.lr=3e-3"],
    ]
    assert "--local" in said[6] and "--slurm" in said[6]
    assert program("sweep", "status", "sweeps/clip_emoji").status == 1
    assert not list(Path("sweeps/clip_emoji/logs").iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("seed=1,2", "optim.lrr=1e-3"), "did you mean 'lr'?"),
        (("seed=1,1",), "the value 1 is there twice"),
        (("seed=1",), "nothing to sweep over"),
        (("seed=1,2", "optim.lr=[1"), "cannot be read as an override"),
        (("seed=1,2", "optim.lr=fast"), "valid number"),
        (("seed=1,2", "name=mine"), "--name NAME names the sweep"),
        (("seed=1,2", "--name", "a/b"), "cannot name a sweep"),
        (("seed=1,2", "--metric", "eval/a/b"), "--metric is an option of a search"),
        (("seed=1,2", "--", "--partition=gpu"), "add --slurm"),
        (("seed=1,2", "--slurm", "--", "--array=1"), "a sweep sets --array itself"),
        (("model.image.num_heads=4,5", "--local"), "must be divisible by num_heads"),
        (("seed=1,2", "--config-dir", "gone"), "does not exist"),
    ],
)
def test_a_mistake_is_told_with_its_mend_and_nothing_is_started(
    program: Program, arguments: tuple[str, ...], said: str
) -> None:
    done = program("sweep", BASE, *arguments)
    assert done.status == 1
    assert said in done.err
    assert not list(Path().glob("sweeps/*/runs")) and not list(Path().glob("sweeps/*/submissions.jsonl"))


def test_a_directory_that_is_no_sweep_is_told(program: Program) -> None:
    for arguments in (("status", "sweeps/none"), ("run", "sweeps/none", "0")):
        done = program("sweep", *arguments)
        assert (done.status, "not the directory of a sweep" in done.err) == (1, True)


@pytest.mark.slow
def test_a_second_call_fills_in_what_failed_and_what_was_killed_and_leaves_the_rest(
    program: Program, shapes: Path, tmp_path: Path
) -> None:
    sweep, log = Sweep(tmp_path / "sweeps" / "small"), tmp_path / "said.log"
    copy, missing = tmp_path / "copy", tmp_path / "missing"
    copy.symlink_to(shapes)
    lines = [line for line in shared(shapes) if not line.startswith("data.root=")]
    roots = ",".join(f"'{path}'" for path in (shapes, missing, copy))
    command = ["sweep", *lines, f"data.root={roots}", "--name", "small", "--local", "--jobs", "2"]
    with started(command, log) as process:
        run = wait_for_step(sweep, 0, 12)
        os.kill(int(re.findall(r'"pid": (\d+)', (run / "lock").read_text())[0]), signal.SIGKILL)
        assert process.wait(timeout=240) == 1, log.read_text()
    assert states(sweep) == [State.FAILED, State.FAILED, State.DONE]
    said = log.read_text()
    assert "1 done, 2 failed" in said
    assert re.search(r"failed: data.root=\S+: it was killed", said)
    assert re.search(rf"failed: data.root=\S+: a data set has no manifest \({missing}", said)
    done_at = sweep.run(sweep.element(2)).metrics.stat().st_mtime_ns

    missing.symlink_to(shapes)
    go_on = shlex.split(said.rsplit("go on: python -m mmtrain ", 1)[1].splitlines()[0])
    again = log.with_name("again.log")
    with started(go_on, again) as process:
        assert process.wait(timeout=240) == 0, again.read_text()
    assert states(sweep) == [State.DONE] * 3
    for element in sweep.elements():
        trained = [row["step"] for row in rows(sweep.run(element).path) if "train/loss" in row]
        assert trained == list(range(1, STEPS + 1)), "each step once"
    assert "going on at step" in sweep.run(sweep.element(0)).log.read_text()
    assert sweep.run(sweep.element(2)).metrics.stat().st_mtime_ns == done_at
    last = program(*command)
    assert (last.status, "nothing is to run" in last.out) == (0, True)


@pytest.mark.slow
def test_ctrl_c_has_jobs_save_and_a_search_goes_on_with_what_it_drew(
    program: Program, shapes: Path, tmp_path: Path
) -> None:
    sweep, log = Sweep(tmp_path / "sweeps" / "clip_emoji"), tmp_path / "said.log"
    space = ["optim.lr=tag(log,interval(1e-4,1e-2))", "seed=int(interval(1,99))"]
    search = ["sweep", *shared(shapes), *space, "--search", "tpe"]
    with started([*search, "--trials", "1", "--local"], log) as process:
        wait_for_step(sweep, 0, 3)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=120) == 130, log.read_text()
    assert states(sweep) == [State.PREEMPTED]
    drawn = (sweep.path / "trials" / "0000.json").read_bytes()
    again = log.with_name("again.log")
    with started([*search, "--trials", "1", "--local"], again) as process:
        assert process.wait(timeout=240) == 0, again.read_text()
    assert states(sweep) == [State.DONE]
    assert (sweep.path / "trials" / "0000.json").read_bytes() == drawn
    assert re.search(r"best eval/new_style/top5: [\d.]+ by .*trial=0000 \(optim.lr=\S+ seed=\d+\)", again.read_text())
    more = program(*search, "--trials", "3")
    assert more.out.splitlines()[0] == "sweeps/clip_emoji: 3 jobs, 1 done, 2 waiting"


@contextmanager
def started(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The program; where the test fails, its jobs, which are sessions of their own, save and go with it."""
    process = start(command, log)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(timeout=130)


def wait_for_step(sweep: Sweep, index: int, step: int) -> Path:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if sweep.plan.exists():
            run = sweep.run(sweep.element(index)).path
            if any(row["step"] >= step for row in rows(run)):
                return run
        time.sleep(0.005)
    raise AssertionError(f"step {step} was not reached")


def documented() -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", DOCS.read_text(), re.DOTALL)
    return [line.partition("  #")[0] for line in "".join(blocks).replace("\\\n", "").splitlines()]


def test_the_commands_of_the_documentation_run_as_written(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in (("sbatch", 'echo "$@" >>submitted; echo 7'), ("squeue", ":")):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    said = {}
    for line in documented():
        python, _, arguments = line.partition(" mmtrain ")
        done = program(*(word for word in shlex.split(arguments) if word != "--local"))  # which would train for an hour
        is_status = arguments.startswith("sweep status")
        assert (python, done.status) == ("python -m", 1 if is_status else 0), f"{line}: {done.out}{done.err}"
        said[arguments] = done.out.splitlines()[0]
    assert [re.findall(r"(\w+): (\d+ (?:jobs|waiting))", text)[0] for text in said.values()] == [
        *([("clip_emoji", "6 jobs")] * 3),
        ("clip_emoji", "6 waiting"),
        *(("seeds", "10 jobs"), ("stems", "2 jobs"), ("losses", "6 jobs"), ("many", "4 jobs")),
        *(("lr", "40 jobs"), ("lr_random", "40 jobs")),
    ]
    arrays = [re.findall(r"--array=(\S+)", line)[0] for line in Path("submitted").read_text().splitlines()]
    assert arrays == ["0-5", "0-3%2", "0-39%8"]


def test_every_option_is_described(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        sweep_command(["--help"])
    text = capsys.readouterr().out
    for option in re.findall(r"--[a-z][\w-]*", DOCS.read_text()):
        assert option in text or option in ("--partition", "--gpus-per-node"), option
