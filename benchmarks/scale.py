"""How training scales: step time, pause of a checkpoint and memory per rank, measured; thousands of GPUs, predicted.

    python benchmarks/scale.py measure [--strategies ddp fsdp ...] [--processes 1 2 4] [--device cuda] [--json FILE]
    python benchmarks/scale.py predict [--measured FILE] [--inter-gbps 400 --latency-us 5 ...] [--plot FILE]

`measure` trains a GPT of 110M parameters under each strategy, every rank with one thread, in processes of its own, and
prints medians beside theory: weak scaling with as many rows for each rank, strong scaling with as many for all. Under
``tp`` all ranks share every block, and the rows of one. On a CPU, ranks take turns with one another and with all else
that runs, so that the clock says little; processor time of a rank says what a step would take on a core of its own, and
is what the model is held against. What FILE holds of the same tasks is not measured again. Memory is what tensors hold
after the backward pass, the most of any rank; the peak of the timed steps is the process's, beyond what it had before
there was a model, or what CUDA allocated. Linux only.

`predict` is the model of `scaling/analytic.py` and `scaling/cluster.py`, whose formulas and sources stand there.
Without a measured step it shows three models whose step of one H100 is assumed.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import signal
import statistics
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from scaling.analytic import Workload
from scaling.cluster import Cluster, Link
from scaling.examples import ASSUMED_MFU, Example, examples
from scaling.launch import time_collectives, train
from scaling.prediction import prediction
from scaling.table import Report, Run
from scaling.task import STRATEGIES, Task

MESSAGE = 28 * 2**20
"""Bytes of the large message of collectives: a block of the model in fp32, about a bucket of DDP's."""
ROUNDS = 15
DEVICES = tuple(2**power for power in range(3, 13))


def main() -> None:
    arguments = _parser().parse_args()
    arguments.run(arguments)


def measure(arguments: argparse.Namespace) -> None:
    """Measures what is not yet known, and prints all that is."""
    known: dict[str, Any] = {"runs": [], "collectives": {}}
    if arguments.json is not None and arguments.json.exists():
        known = json.loads(arguments.json.read_text())
    known["machine"] = _machine(arguments.device)
    done = {Task(**run["task"]) for run in known["runs"]}
    tasks, worlds = list(_tasks(arguments)), [count for count in arguments.processes if count > 1]
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("", total=len(tasks) + len(worlds))
        for task in tasks:
            progress.update(bar, description=f"{task.strategy}, {task.world} ranks")
            if task not in done:
                known["runs"].append({"task": asdict(task), "result": train(task)})
                _keep(known, arguments.json)
            progress.advance(bar)
        for world in worlds:
            progress.update(bar, description=f"collectives, {world} ranks")
            if str(world) not in known["collectives"]:
                known["collectives"][str(world)] = time_collectives(world, arguments.device, MESSAGE, ROUNDS)
                _keep(known, arguments.json)
            progress.advance(bar)
    report = _report(known, arguments)
    print(*(table.markdown() for table in report.tables()), known["machine"], sep="\n\n")


def _tasks(arguments: argparse.Namespace) -> Iterator[Task]:
    precision = arguments.precision or ("bf16-mixed" if arguments.device == "cuda" else "32-true")

    def task(strategy: str, world: int, rows: int, saves: int) -> Task:
        return Task(
            strategy=strategy,
            world=world,
            rows=rows,
            tokens=arguments.tokens,
            steps=arguments.steps,
            saves=saves,
            device=arguments.device,
            precision=precision,
            tiny=arguments.tiny,
        )

    yield task("none", 1, arguments.rows, arguments.saves)
    for strategy in arguments.strategies:
        for world in arguments.processes:
            if "weak" in arguments.scaling and (world > 1 or strategy != "tp"):
                yield task(strategy, world, arguments.rows, arguments.saves)
            cuts = strategy != "tp" and world > 1 and arguments.rows % world == 0
            if "strong" in arguments.scaling and cuts:
                yield task(strategy, world, arguments.rows // world, 0)


def _report(known: dict[str, Any], arguments: argparse.Namespace) -> Report:
    runs = [Run(Task(**run["task"]), run["result"]) for run in known["runs"]]
    runs.sort(key=lambda run: (STRATEGIES.index(run.task.strategy), run.task.rows != arguments.rows, run.task.world))
    collectives = {int(world): times for world, times in known["collectives"].items()}
    return Report(runs, arguments.rows, collectives, MESSAGE, on_cpu=arguments.device == "cpu")


def _keep(known: dict[str, Any], out: Path | None) -> None:
    if out is not None:
        out.write_text(json.dumps(known, indent=1))


def predict(arguments: argparse.Namespace) -> None:
    """Prints, and draws, the times of steps on clusters."""
    cluster = Cluster(
        Link(arguments.intra_gbps * arguments.efficiency, arguments.intra_latency_us),
        Link(arguments.inter_gbps * arguments.efficiency, arguments.latency_us),
        arguments.gpus_per_node,
        arguments.gather_hops,
    )
    note = (
        f"{arguments.intra_gbps:,.0f} Gbit/s within nodes of {arguments.gpus_per_node}, {arguments.inter_gbps:,.0f} a "
        f"GPU between them, {arguments.efficiency:.0%} of either; hops of {arguments.intra_latency_us:g} and "
        f"{arguments.latency_us:g} us, {arguments.overlap:.0%} overlapped"
    )
    if arguments.measured is not None:
        shown = [Example("as measured", _measured(arguments))]
    elif arguments.step_ms is not None:
        shown = [Example("as given", _workload(arguments))]
    else:
        shown = examples(arguments.overlap)
        note += f"; the step of one GPU assumed, at {ASSUMED_MFU:.0%} MFU"
    room = arguments.gpu_gb * 1e9
    tables = [prediction(example, cluster, DEVICES, room) for example in shown]
    print(*(table.markdown() for table in tables), note, sep="\n\n")
    if arguments.plot is not None:
        from scaling.plot import draw

        draw(shown, cluster, DEVICES, room, note, arguments.plot)


def _workload(arguments: argparse.Namespace) -> Workload:
    return Workload(
        step_s=arguments.step_ms / 1000,
        params=int(arguments.params),
        outside=int(arguments.outside),
        blocks=arguments.blocks,
        update_s=arguments.update_ms / 1000,
        bytes_per_param=arguments.bytes_per_param,
        overlap=arguments.overlap,
    )


def _measured(arguments: argparse.Namespace) -> Workload:
    known = json.loads(arguments.measured.read_text())
    run = next(run for run in known["runs"] if run["task"]["strategy"] == "none")
    result = run["result"]
    return Workload(
        step_s=statistics.median(result["steps"]),
        params=result["params"],
        outside=result["outside"],
        blocks=result["blocks"],
        update_s=statistics.median(result["updates"]),
        bytes_per_param=2 if run["task"]["precision"] == "bf16-mixed" else 4,
        overlap=arguments.overlap,
    )


def _machine(device: str) -> str:
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    if device == "cuda":
        name = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    else:
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        name = f"{os.cpu_count()} cores of {found[1] if found else platform.machine()}"
    return (
        f"{date}, {name}, load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}, torch {torch.__version__}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    ours = verbs.add_parser("measure")
    ours.set_defaults(run=measure)
    ours.add_argument("--strategies", nargs="+", default=list(STRATEGIES[1:]), choices=STRATEGIES[1:])
    ours.add_argument("--processes", nargs="+", type=int, default=[1, 2, 4])
    ours.add_argument("--scaling", nargs="+", default=["weak", "strong"], choices=("weak", "strong"))
    ours.add_argument("--rows", type=int, default=4, help="of a rank, or of all in strong scaling")
    ours.add_argument("--tokens", type=int, default=64, help="of a row")
    ours.add_argument("--steps", type=int, default=5, help="that are timed")
    ours.add_argument("--saves", type=int, default=2, help="checkpoints of each way to write them")
    ours.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    ours.add_argument("--precision", help="32-true on a CPU, else bf16-mixed")
    ours.add_argument("--tiny", action="store_true", help="a tiny model: to see that it works")
    ours.add_argument("--json", type=Path, help="where every figure is kept, and looked up")
    theirs = verbs.add_parser("predict")
    theirs.set_defaults(run=predict)
    theirs.add_argument("--measured", type=Path, help="what `measure --json` kept: model and step of one process")
    theirs.add_argument("--step-ms", type=float, help="of one GPU; with it, the model is as the next options say")
    theirs.add_argument("--update-ms", type=float, default=0.0, help="of it, clipping and the optimizer")
    theirs.add_argument("--params", type=float, default=124.4e6)
    theirs.add_argument("--outside", type=float, default=39.4e6, help="parameters outside of blocks")
    theirs.add_argument("--blocks", type=int, default=12)
    theirs.add_argument("--bytes-per-param", type=float, default=2.0, help="of a weight as FSDP gathers it")
    theirs.add_argument(
        "--intra-gbps", type=float, default=3600.0, help="Gbit/s of a GPU, one way, in a node: NVLink 4"
    )
    theirs.add_argument("--inter-gbps", type=float, default=400.0, help="Gbit/s of a GPU between nodes: InfiniBand NDR")
    theirs.add_argument("--efficiency", type=float, default=0.8, help="share of both that large messages reach")
    theirs.add_argument("--intra-latency-us", type=float, default=1.0, help="of a hop in a node")
    theirs.add_argument("--latency-us", type=float, default=5.0, help="of a hop between nodes")
    theirs.add_argument("--gpus-per-node", type=int, default=8)
    theirs.add_argument("--gather-hops", default="ring", choices=("ring", "log"), help="of all-gather, reduce-scatter")
    theirs.add_argument("--overlap", type=float, default=0.9, help="share of the communication that can be hidden")
    theirs.add_argument("--gpu-gb", type=float, default=80.0, help="memory that the model's state must fit")
    theirs.add_argument("--plot", type=Path, help="PNG or SVG to draw")
    return parser


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended, too
    main()
