"""Kills a run of two ranks again and again, at any moment and any process, and compares what comes out bit by bit.

    python benchmarks/crash_matrix.py --kills 30 --steps 200 --out crash_matrix.md

A run of the tiny experiment of the tests (two ranks under DDP, a data worker each, an evaluation every 10 steps and a
checkpoint every 5) is trained once undisturbed. Then it is trained by the same command, killed with ``kill -9`` and
started again, as often as asked. Moments, steps and processes are drawn from a seed; where the moment is a file being
written, rank 0 is stopped first, and killed only if the file is still unfinished. Ends with status 1 if any bit of the
last checkpoint or any row of the record differs, if a process is left behind, or if more than one message is told.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from crashes.family import freeze, is_over, members
from crashes.moments import EVAL_EVERY, MOMENTS, last_row
from rich.console import Console
from rich.progress import Progress

# The tiny run that the tests kill, too.
sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

from tiny_run import differences, finish, kill_group, last_checkpoint, rows, start, tiny, write_shapes

VICTIMS = ("rank 0", "rank 1", "worker of rank 0", "worker of rank 1")
EARLY = ("start-up", "before its first row")
END_WITHIN_S = 60.0
MOST_WAIT = 2 * EVAL_EVERY
"""Steps after which a moment that does not come is given up, so that there is a run left for the kills after it."""
HEADER = "| # | moment | step | killed | all ended after | what the job said | resumed from | steps lost |"


@dataclass
class Kill:
    """What is planned, and what came of it."""

    moment: str
    target: int  # not before this step
    latest: int  # at this step a moment that has not been met is given up, and the training is killed
    delay: float  # as a share of the moment's length
    victim: str
    step: int = 0
    ended_after: float = 0.0
    said: str = ""
    resumed_from: int | None = None  # by the next start that got so far
    faults: str = ""

    def row(self, number: int) -> str:
        """A line of the table."""
        cells = [number, self.moment, self.step, self.victim, f"{self.ended_after:.1f} s", self.said or "nothing"]
        lost = max(0, self.step - (self.resumed_from or 0)) if self.moment not in EARLY else 0
        return "| " + " | ".join(map(str, [*cells, self.resumed_from, lost])) + " |"


def plan(kills: int, steps: int, seed: int) -> list[Kill]:
    """Kills spread over the run; every moment in turn, all else drawn."""
    draw = random.Random(seed)
    names = list(MOMENTS)
    moments = [names[number % len(names)] for number in range(kills)]
    draw.shuffle(moments)
    targets = [
        max(1, round((number + draw.uniform(0.2, 0.9)) * (steps - EVAL_EVERY) / kills)) for number in range(kills)
    ]
    return [
        Kill(
            moment,
            target,
            min(steps - 4, target + MOST_WAIT),
            draw.random(),
            draw.choice(VICTIMS[:2] if moment in EARLY else VICTIMS),
        )
        for moment, target in zip(moments, targets, strict=True)
    ]


def crash(kill: Kill, command: list[str], run: Path, log: Path, start_up_s: float) -> None:
    """Starts the run, kills a process of it at the moment, and waits for the end of the others."""
    log.write_bytes(b"")
    began = time.monotonic()
    process = start(command, log)
    try:
        before = last_row(run)["step"]
        _await(kill, process, run, log, before, began, start_up_s)
        kill.step = last_row(run)["step"]
        killed = time.monotonic()
        while not (process.poll() is not None and is_over(process.pid)):
            if time.monotonic() - killed > END_WITHIN_S:
                kill.faults = f"processes lived for {END_WITHIN_S:.0f} s: {members(process.pid)}"
                break
            time.sleep(0.02)
        kill.ended_after = time.monotonic() - killed
    finally:
        if process.poll() is None or not is_over(process.pid):
            kill_group(process)
    _read_said(kill, log)


def _await(
    kill: Kill, process: subprocess.Popen[bytes], run: Path, log: Path, before: int, began: float, start_up_s: float
) -> None:
    """Returns when the victim is dead. Where the moment or the victim has not come by then, so is its stand-in."""
    condition = MOMENTS[kill.moment]
    since: float | None = None
    while process.poll() is None:
        now = time.monotonic()
        if kill.moment == "start-up":
            due = now - began > kill.delay * start_up_s
        elif kill.moment == "before its first row":
            announced = b" steps in " in log.read_bytes() or b"going on at" in log.read_bytes()
            since = since or (now if announced else None)
            due = since is not None and now - since > kill.delay * start_up_s / 8
        else:
            step = last_row(run)["step"]
            if step >= max(kill.latest, before + 1):
                kill.moment, kill.delay, condition = "training", 0.0, None
            reached = step >= max(kill.target, before + 1)
            since = since or (now if reached else None)
            due = since is not None and (condition is not None or now - since > kill.delay / 2)
        if due and _strike(kill, process.pid, run):
            return
        time.sleep(0.0005)
    raise RuntimeError(f"the run ended before it was killed: {log.read_text(errors='replace')[-2000:]}")


def _strike(kill: Kill, session: int, run: Path) -> bool:
    """Kills the victim if the moment has not passed while rank 0 was stopped."""
    condition = MOMENTS[kill.moment]
    if condition is not None and not condition(run):
        return False
    freeze(session)
    try:
        if condition is not None and not condition(run):
            return False
        family = members(session)
        if kill.victim not in family:
            kill.victim = "rank 0"
        os.kill(family[kill.victim], signal.SIGKILL)
        return True
    finally:
        os.kill(session, signal.SIGCONT)


def _read_said(kill: Kill, log: Path) -> None:
    said = log.read_text(errors="replace")
    errors = re.findall(r"^(?:error|ERROR): (.*)$|^(\[rank: \d+\] Child process.*)$", said, re.MULTILINE)
    messages = [re.sub(r"(process|PID) \d+", r"\1 N", first or second) for first, second in errors]
    kill.said = messages[0] if messages else ""
    if len(messages) > 1 or "Traceback" in said:
        kill.faults = f"said more than one message: {said[-2000:]}"


def _note_beginning(kills: list[Kill], log: Path) -> None:
    """Notes where a start began, if it got so far, in the kills before it that wait to know."""
    begun = re.search(r"going on at step (\d+) of|training \d+ steps in", log.read_text(errors="replace"))
    for kill in kills:
        if begun and kill.resumed_from is None:
            kill.resumed_from = int(begun.group(1) or 0)


def matrix(home: Path, kills: list[Kill], steps: int, console: Console) -> list[str]:
    """Carries the kills out; returns what is wrong with the run that came through them."""
    write_shapes(home / "data")
    more = ["trainer.devices=2", "strategy=ddp", "data.num_workers=1", f"budget.samples={16 * steps}"]
    more += [f"trainer.eval_every_n_steps={EVAL_EVERY}", "~callback.retrievals"]
    whole, killed = home / "whole", home / "killed"
    with Progress(console=console) as progress:
        task = progress.add_task("the undisturbed run", total=len(kills) + 2)
        began = time.monotonic()
        undisturbed = start(tiny(home / "data", whole, *more), home / "whole.log")
        while last_row(whole)["step"] == 0 and undisturbed.poll() is None:
            time.sleep(0.05)
        start_up_s = time.monotonic() - began
        finish(undisturbed, home / "whole.log")
        command = tiny(home / "data", killed, *more)
        for number, kill in enumerate(kills, 1):
            progress.update(task, advance=1, description=f"{kill.moment}, {kill.victim}")
            crash(kill, command, killed, home / "killed.log", start_up_s)
            _note_beginning(kills[: number - 1], home / "killed.log")
            progress.console.print(f"{number}. {kill.moment}, step {kill.step}: {kill.said}", soft_wrap=True)
        progress.update(task, advance=1, description="to the end")
        (home / "killed.log").write_bytes(b"")
        finish(start(command, home / "killed.log"), home / "killed.log")
        _note_beginning(kills, home / "killed.log")
        progress.update(task, advance=1)
    wrong = differences(last_checkpoint(whole), last_checkpoint(killed))
    if rows(whole, but="throughput/") != rows(killed, but="throughput/"):
        wrong.append("metrics.jsonl differs")
    return wrong + [f"kill {number}: {kill.faults}" for number, kill in enumerate(kills, 1) if kill.faults]


def main() -> int:
    """Runs the matrix; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="file for the table, in Markdown")
    options = parser.parse_args()
    kills = plan(options.kills, options.steps, options.seed)
    with tempfile.TemporaryDirectory(prefix="crash-matrix-") as folder:
        wrong = matrix(Path(folder), kills, options.steps, Console(stderr=True))
    outcome = f"{len(kills)} kills, {options.steps} steps, seed {options.seed}: "
    outcome += "; ".join(wrong[:8]) if wrong else "last checkpoint and all rows bit-identical to the undisturbed run's"
    lines = [HEADER, re.sub(r"[^|]+", "---", HEADER), *(kill.row(number) for number, kill in enumerate(kills, 1))]
    text = "\n".join([*lines, "", outcome, ""])
    if options.out is not None:
        options.out.write_text(text)
    print(text)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
