"""A job that cannot go on ends in seconds, says why once, and leaves its stacks."""

from __future__ import annotations

import faulthandler
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import lightning.pytorch as pl
import pytest
from torch.distributed import HashStore
from toy_run import train

from mmtrain.callback.board import Board, Cause
from mmtrain.callback.heartbeat import Heart, Position, table
from mmtrain.callback.pulse import Patience, Pulse
from mmtrain.callback.watchdog import Watchdog, blamed
from mmtrain.errors import ConfigError, RunError

SCRIPT = Path(__file__).with_name("watched_run.py")
ROOT = Path(__file__).parents[2]
PATIENCE = Patience(beat=0.05, lost=0.6)


class Ranks:
    """The pulses of ranks that share a store, in one process."""

    def __init__(self, count: int) -> None:
        store = HashStore()
        self.hearts = [Heart("node", limit=100) for _ in range(count)]
        self.pulses = [Pulse(Board(store, rank, count), heart, PATIENCE) for rank, heart in enumerate(self.hearts)]
        for pulse in self.pulses:
            pulse.start()

    def causes(self, seconds: float) -> list[Cause | None]:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not all(pulse.found.is_set() for pulse in self.pulses):
            time.sleep(0.01)
        return [pulse.cause for pulse in self.pulses]


@pytest.fixture
def ranks() -> Iterator[Ranks]:
    made = Ranks(3)
    yield made
    for pulse in made.pulses:
        pulse.stop()
        pulse.join()


def test_a_silent_rank_is_lost_and_all_hear_of_it(ranks: Ranks) -> None:
    time.sleep(2 * PATIENCE.lost)
    assert ranks.pulses[0].cause is None, "all of them live"
    ranks.pulses[2].stop()
    ranks.pulses[2].join()
    deadline = time.monotonic() + 20
    while ranks.pulses[1].cause is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [pulse.cause and (pulse.cause.kind, pulse.cause.ranks) for pulse in ranks.pulses[:2]] == [("lost", (2,))] * 2


def test_a_rank_behind_that_gets_on_is_waited_for(ranks: Ranks) -> None:
    ranks.hearts[0].mark("in the training step", 1, limit=0.2)
    ranks.hearts[1].mark("in the training step", 1, limit=0.2)
    assert ranks.causes(seconds=1) == [None] * 3, "rank 2 may still be in a long evaluation"
    ranks.hearts[2].mark("in the training step", 1, limit=0.2)
    assert {cause.kind if cause else None for cause in ranks.causes(seconds=20)} == {"hung"}


def test_the_first_cause_is_everyones(ranks: Ranks) -> None:
    for rank, pulse in enumerate(ranks.pulses):
        pulse.declare(Cause("failed", (rank,), "a mistake"))
    first, *others = ranks.causes(seconds=20)
    assert first is not None and others == [first, first]


def test_a_rank_that_parted_may_be_gone(ranks: Ranks) -> None:
    for pulse in ranks.pulses:
        pulse.part()
    for pulse in ranks.pulses[1:]:
        pulse.stop()
    time.sleep(2 * PATIENCE.lost)
    assert ranks.pulses[0].cause is None


def test_the_table_shows_who_is_behind() -> None:
    at_step = Position(9, "in the training step", 4, 650.0, 600.0, "node")
    waiting = Position(8, "waiting for the next batch", 3, 651.0, 600.0, "node")
    assert table([at_step, at_step, waiting, at_step]).splitlines() == [
        "    rank 2: waiting for the next batch (step 3) for 10.8 min  <- not arrived where the others wait",
        "    ranks 0-1, 3: in the training step (step 4) for 10.8 min",
    ]


@pytest.mark.parametrize("times", [{"timeout_minutes": 0}, {"slow_timeout_minutes": 1}, {"beat_seconds": 60}])
def test_times_that_contradict_one_another_are_refused(times: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="="):
        Watchdog(**times)


def test_a_run_under_watch_ends_as_ever_and_gives_its_signal_back(tmp_path: Path) -> None:
    train(tmp_path, max_steps=4, extra=[Watchdog()])
    assert not faulthandler.unregister(signal.SIGUSR2)
    assert not (tmp_path / "stacks").exists()


def start(directory: Path, scenario: str, **environment: str) -> subprocess.Popen[str]:
    variables = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment
    command = [sys.executable, str(SCRIPT), str(directory), scenario]
    return subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def start_two(stack: ExitStack, directory: Path, scenario: str) -> list[subprocess.Popen[str]]:
    """Two ranks as a launcher of a cluster starts them; those that live at the end are killed."""
    port = str(20000 + (os.getpid() + hash(scenario)) % 20000)
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    ranks = [start(directory, scenario, RANK=str(r), LOCAL_RANK=str(r), **meeting) for r in range(2)]
    for process in ranks:
        stack.callback(process.kill)
    return ranks


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()[0]
        time.sleep(0.01)


@pytest.mark.slow
def test_a_hung_rank_ends_the_job_with_the_stacks_of_all(tmp_path: Path) -> None:
    with ExitStack() as stack:
        ranks = start_two(stack, tmp_path, "hang")
        said = [process.communicate(timeout=120)[0] for process in ranks]
    assert [process.returncode for process in ranks] == [1, 1]
    assert "the job hangs" in said[0] and "the job hangs" not in said[1]
    assert re.search(r"rank 1: .*<- not arrived", said[0]) or re.search(r"ranks 0-1: in the training step", said[0])
    stacks = [(tmp_path / "stacks" / f"rank_{rank}.txt").read_text() for rank in range(2)]
    assert "hang_here" in stacks[1] and "hang_here" not in stacks[0]
    assert "backward" in stacks[0] or "forward" in stacks[0]


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_is_named_once_by_the_one_that_is_left(tmp_path: Path, victim: int) -> None:
    with ExitStack() as stack:
        ranks = start_two(stack, tmp_path, "wait")
        wait_for(tmp_path / "reached", ranks[0])
        ranks[victim].kill()
        killed = time.monotonic()
        left = ranks[1 - victim]
        said = left.communicate(timeout=120)[0]
    assert left.returncode == 1
    assert time.monotonic() - killed < 60
    assert said.count(f"rank {victim} is gone") == 1, said
    assert "Traceback" not in said


@pytest.mark.slow
def test_an_error_of_one_rank_is_told_by_that_rank_alone(tmp_path: Path) -> None:
    with ExitStack() as stack:
        ranks = start_two(stack, tmp_path, "raise")
        said = [process.communicate(timeout=120)[0] for process in ranks]
    assert [process.returncode for process in ranks] == [1, 1]
    assert "ValueError: a mistake in rank 1" in said[1]
    assert "Error" not in said[0] and "Traceback" not in said[0], said[0]


def test_slow_parts_that_get_on_are_let_go_on_and_a_hang_is_not(tmp_path: Path) -> None:
    with ExitStack() as stack:
        process = start(tmp_path, "hang")
        stack.callback(process.kill)
        wait_for(tmp_path / "reached", process)
        process.send_signal(signal.SIGUSR2)
        said = process.communicate(timeout=120)[0]
    assert process.returncode == 1
    assert (tmp_path / "checkpoints" / "step_00000004.json").exists(), "longer than the limit, as was the evaluation"
    assert "hang_here" in said.partition("the job hangs")[0], "printed on demand"
    assert "in the training step (step 6)" in said
    assert "hang_here" in (tmp_path / "stacks" / "rank_0.txt").read_text()


def test_a_rank_that_dies_before_anything_is_watched_is_named(tmp_path: Path) -> None:
    trainer = pl.Trainer(accelerator="cpu", devices=2, strategy="ddp", logger=False, default_root_dir=tmp_path)
    child = subprocess.Popen(["sleep", "60"])
    trainer.strategy.launcher.procs.append(child)  # type: ignore[union-attr]
    child.kill()
    with pytest.raises(RunError, match=f"rank 1 is gone: process {child.pid} was killed by SIGKILL"), blamed(trainer):
        raise RuntimeError("Read error: Connection reset by peer")
    with pytest.raises(RuntimeError, match="of its own"), blamed(trainer):
        raise RuntimeError("an error of its own")
