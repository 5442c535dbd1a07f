"""How fast a training step is: mmtrain beside open_clip, Hugging Face and a plain loop.

    python benchmarks/train_step.py [--rounds 5] [--races gpt bert ...] [--device cuda] [--markdown] [--json FILE]

All contenders of a race run in this process, on the same shapes, with the same fused AdamW and clipped gradients, and
take turns: a step each, again and again, so that what else the machine does meets all of them. Figures are medians; the
spread is the middle half of the ratios of steps that followed each other. On a GPU the forward pass is bf16,
`--compile` compiles mmtrain's models block by block and a peer's as a whole, and MFU is by the formula of `Transformer`
against the dense bf16 peak. The rows of real lengths have those of the articles of the `wiki` set in WordPiece tokens,
cut at 128.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from steps import bert, clip, gpt, lengths, trainer
from steps.step import BASE, TINY, Race, Setting, Size

RACES = ("clip", "bert", "bert_real", "gpt", "trainer")
HEADER = ("race", "of", "step, ms", "a second", "ratio", "spread", "target")
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12}
MOST_OVERHEAD = 1.03
WARMUP = 2


def main() -> None:
    arguments = _parser().parse_args()
    torch.set_num_threads(arguments.threads)
    setting = Setting(arguments.device, bf16=arguments.device == "cuda", compile=arguments.compile)
    arguments.work.mkdir(parents=True, exist_ok=True)
    results = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for make in _races(arguments, setting):
            results.append(make(progress))
    report = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": {"name": _machine(arguments.device), "cores": os.cpu_count(), "load": os.getloadavg()},
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "compile": arguments.compile,
        "races": results,
    }
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report, indent=1))
    _show(report, arguments.markdown)


def _parser() -> argparse.ArgumentParser:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--races", nargs="+", default=list(RACES), choices=RACES)
    parser.add_argument("--rounds", type=int, default=5, help="steps of each contender")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tiny", action="store_true", help="tiny models: to see that it works")
    parser.add_argument("--rows", type=int, help="rows of a batch, instead of 8 (CPU) or what fills an H100")
    parser.add_argument("--experiment", default="clip_emoji", help="of the race `trainer`")
    parser.add_argument("--work", type=Path, default=cache / "mmtrain" / "benchmarks", help="where open_clip is kept")
    parser.add_argument("--markdown", action="store_true", help="print the table as the README shows it")
    parser.add_argument("--json", type=Path, help="write every figure and the machine")
    return parser


def _races(arguments: argparse.Namespace, setting: Setting) -> Iterator[Callable[[Progress], dict[str, Any]]]:
    on_gpu = arguments.device == "cuda"

    def rows(cpu: int, gpu: int) -> int:
        return int(arguments.rows or (gpu if on_gpu else cpu))

    size, text = (TINY, TINY) if arguments.tiny else (BASE, Size(512, 12, 8))
    makers: dict[str, Callable[[], Race]] = {
        "clip": lambda: clip.race(size, text, rows(16, 1024), setting, arguments.work),
        "bert": lambda: bert.race(size, rows(8, 512), 128, setting),
        "bert_real": lambda: bert.race(size, rows(16, 512), 128, setting, lengths.of_articles()),
        "gpt": lambda: gpt.race(size, rows(2, 32), 1024 if on_gpu else 256, setting),
    }
    for name in arguments.races:
        if name == "trainer":
            yield lambda progress: _race_trainer(arguments.experiment, arguments.rounds, progress)
        else:
            yield lambda progress, name=name: _race(makers[name](), arguments.rounds, setting, progress)  # type: ignore[misc]


def _race(race: Race, rounds: int, setting: Setting, progress: Progress) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {contender.name: [] for contender in race.contenders}
    task = progress.add_task(race.name, total=rounds + WARMUP)
    for number in range(rounds + WARMUP):
        for contender in race.contenders:
            start = time.perf_counter()
            contender.step()
            if setting.device == "cuda":
                torch.cuda.synchronize()
            if number >= WARMUP:
                seconds[contender.name].append(time.perf_counter() - start)
        progress.advance(task)
    entries = [{"name": who.name, "units": who.units, "seconds": seconds[who.name]} for who in race.contenders]
    return {
        "race": race.name,
        "unit": race.unit,
        "shape": race.shape,
        "flops": race.flops,
        "target": race.target,
        "contenders": entries,
    }


def _race_trainer(experiment: str, rounds: int, progress: Progress) -> dict[str, Any]:
    steps = 30
    overrides = [f"experiment={experiment}", "trainer.threads=1", "data.num_workers=1"]
    task = progress.add_task(f"trainer: {experiment}", total=rounds)
    ours: list[float] = []
    plain: list[float] = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            ours += trainer.whole([*overrides, f"run.dir={folder}"], steps, Path(folder))
            plain += trainer.bare([*overrides, f"run.dir={folder}"], steps)
        progress.advance(task)
    return {
        "race": f"trainer, {experiment}",
        "unit": "steps",
        "shape": f"{steps} steps",
        "target": MOST_OVERHEAD,
        "contenders": [
            {"name": "mmtrain", "units": 1, "seconds": ours},
            {"name": "bare loop", "units": 1, "seconds": plain},
        ],
    }


def _rows(report: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    peak = next((flops for name, flops in PEAK_FLOPS.items() if name in report["machine"]["name"]), None)
    for race in report["races"]:
        ours = race["contenders"][0]
        base = statistics.median(ours["seconds"])
        for position, who in enumerate(race["contenders"]):
            median = statistics.median(who["seconds"])
            is_trainer = race["race"].startswith("trainer")
            pairs = zip(ours["seconds"], who["seconds"], strict=True)
            ratios = sorted(mine / theirs if is_trainer else theirs / mine for mine, theirs in pairs)
            ratio = base / median if is_trainer else median / base
            rate = f"{who['units'] / median:,.1f} {race['unit']}"
            if peak is not None and position == 0 and "flops" in race:
                rate += f", MFU {race['flops'] / median / peak:.1%}"
            spread = "" if position == 0 else f"{ratios[len(ratios) // 4]:.2f} to {ratios[-1 - len(ratios) // 4]:.2f}"
            target = ""
            if position == 1:
                met = ratio <= race["target"] if is_trainer else ratio >= race["target"]
                target = f"{'<=' if is_trainer else '>='} {race['target']}: {'met' if met else 'missed'}"
            yield (
                f"{race['race']}, {race['shape']}" if position == 0 else "",
                who["name"],
                f"{1000 * median:,.0f}",
                rate,
                "" if position == 0 else f"{ratio:.2f}",
                spread,
                target,
            )


def _show(report: dict[str, Any], markdown: bool) -> None:
    machine = report["machine"]
    note = (
        f"{report['date']}, {machine['name']}, {report['threads']} threads of {machine['cores']} cores, load "
        f"{machine['load'][0]:.1f}; Python {report['python']}, torch {report['torch']}; {report['rounds']} rounds"
    )
    rows = list(_rows(report))
    if markdown:
        lines = [" | ".join(HEADER), " | ".join("---" for _ in HEADER), *(" | ".join(row) for row in rows)]
        print("\n".join(f"| {line} |" for line in lines), note, sep="\n\n")
        return
    table = Table(*HEADER, caption=note)
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 150).print(table)


def _machine(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()


if __name__ == "__main__":
    main()
