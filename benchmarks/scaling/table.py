"""The tables: what was measured, beside what theory says."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from scaling.analytic import Workload, state_bytes, step_seconds
from scaling.cluster import Cluster, Link
from scaling.collectives import link_of
from scaling.task import Task

MIB = 2**20
Row = tuple[str, ...]


class Table(NamedTuple):
    title: str
    header: Row
    rows: list[Row]

    def markdown(self) -> str:
        """The table as the log shows it, below its title."""
        lines = [self.header, ("---",) * len(self.header), *self.rows]
        return "\n".join([f"**{self.title}**", "", *("| " + " | ".join(line) + " |" for line in lines)])


class Run(NamedTuple):
    """A task and what its ranks measured."""

    task: Task
    result: Mapping[str, Any]

    @property
    def step_s(self) -> float:
        return statistics.median(self.result["steps"])


class Report(NamedTuple):
    """All that was measured.

    Attributes:
        runs: Of each task.
        rows: Of a rank in weak scaling, and of all ranks in strong scaling.
        collectives: What `scaling.collectives` printed, by the number of ranks.
        message: Bytes of its large message.
        on_cpu: Whether ranks share the processor.
    """

    runs: list[Run]
    rows: int
    collectives: Mapping[int, Mapping[str, Any]]
    message: int
    on_cpu: bool

    def tables(self) -> list[Table]:
        return [
            Table("Step", STEP, list(_steps(self))),
            Table("Checkpoint", CHECKPOINT, list(_checkpoints(self))),
            Table("Memory of a rank, MiB", MEMORY, list(_memory(self))),
            Table("Collectives", COLLECTIVES, list(_collectives(self))),
        ]


STEP = (
    "strategy",
    "ranks",
    "rows each",
    "step, s",
    "spread",
    "rows/s",
    "busy, s",
    "predicted, s",
    "of busy",
)
CHECKPOINT = ("strategy", "ranks", "written", "pause, s", "steps meanwhile, s", "durable after, s", "MB")
MEMORY = ("strategy", "ranks", "weights", "gradients", "optimizer", "sum", "theory", "other", "peak", "PSS")
COLLECTIVES = ("collective", "ranks", "4 KiB, ms", "28 MiB, ms", "spread", "CPU, ms", "GB/s on a ring")


def predicted(report: Report, task: Task) -> float | None:
    """Seconds of a step of some ranks, from that of one rank and the all-reduce; None where anything is missing.

    The one is under the same strategy where that was measured: what copies cost is its own. Passes take as long as they
    have rows, the update as it is. On CPUs all is processor time of a rank: it is what a step would take on a core of
    its own, as nothing overlaps where cores send, too, and it is the same whoever else uses the cores.
    """
    ones = {run.task.strategy: run for run in report.runs if run.task.world == 1}
    base = ones.get(task.strategy, ones.get("none"))
    times = report.collectives.get(task.world)
    if task.strategy == "tp" or base is None or (times is None and task.world > 1):
        return None
    update = statistics.median(base.result["update_cpu" if report.on_cpu else "updates"])
    step = (_busy(report, base) - update) * task.rows / base.task.rows + update
    work = Workload(
        step,
        base.result["params"],
        base.result["outside"],
        base.result["blocks"],
        update_s=update,
        bytes_per_param=2 if task.precision == "bf16-mixed" else 4,
        overlap=0.0 if report.on_cpu else 1.0,
    )
    clock = "cpu" if report.on_cpu else "wall"
    link = Link(1.0, 0.0) if times is None else link_of(times["all-reduce"], clock, report.message, task.world)
    strategy = "ddp" if task.strategy == "none" else task.strategy
    return step_seconds(strategy, work, Cluster(link, link, node=task.world), task.world)


def _busy(report: Report, run: Run) -> float:
    """Seconds of a step in which a rank works: of its processor, or those of its GPU."""
    return statistics.median(run.result["cpu"]) / run.task.world if report.on_cpu else run.step_s


def _steps(report: Report) -> Iterator[Row]:
    for run in report.runs:
        seconds, task = run.result["steps"], run.task
        guess = predicted(report, task)
        yield (
            task.strategy,
            str(task.world),
            str(task.rows),
            f"{run.step_s:.2f}",
            f"{min(seconds):.2f} to {max(seconds):.2f}",
            f"{task.all_rows / run.step_s:.2f}",
            f"{_busy(report, run):.2f}",
            "" if guess is None else f"{guess:.2f}",
            "" if guess is None else f"{guess / _busy(report, run):.2f}",
        )


def _checkpoints(report: Report) -> Iterator[Row]:
    for run in report.runs:
        for background in dict.fromkeys(save["background"] for save in run.result["saves"]):
            saves = [save for save in run.result["saves"] if save["background"] == background]
            beside = [seconds for save in saves for seconds in save["beside"]]
            yield (
                run.task.strategy,
                str(run.task.world),
                "in the background" if background else "while all wait",
                ", ".join(f"{save['pause']:.2f}" for save in saves),
                f"{statistics.median(beside):.2f}" if background and beside else "",
                ", ".join(f"{save['durable']:.2f}" for save in saves),
                f"{saves[0]['bytes'] / 1e6:,.0f}",
            )


def _memory(report: Report) -> Iterator[Row]:
    for run in report.runs:
        if run.task.rows != report.rows:
            continue
        held = {part: max(own[part] for own in run.result["held"]) for part in run.result["held"][0]}
        parts = [held[part] for part in ("weights", "gradients", "optimizer")]
        theory = state_bytes(run.task.strategy, run.result["params"], run.result["outside"], run.task.world)
        every = [*parts, sum(parts), theory, held["other"], held["peak"], held["pss"]]
        yield run.task.strategy, str(run.task.world), *(f"{size / MIB:,.0f}" for size in every)


def _collectives(report: Report) -> Iterator[Row]:
    for world, times in sorted(report.collectives.items()):
        for name, seconds in times.items():
            small, large, cpu = (
                1000 * statistics.median(seconds[size][clock])
                for size, clock in (("small", "wall"), ("large", "wall"), ("large", "cpu"))
            )
            sent = (2 if name == "all-reduce" else 1) * (world - 1) / world * report.message
            spread = " to ".join(f"{1000 * end(seconds['large']['wall']):.1f}" for end in (min, max))
            yield name, str(world), f"{small:.2f}", f"{large:.1f}", spread, f"{cpu:.1f}", f"{sent / large / 1e6:.2f}"
