"""How fast samples come: mmtrain.data beside webdataset, LitData, MosaicML Streaming and megatron-energon.

    python benchmarks/data.py [--rounds 5] [--quick] [--markdown] [--json FILE] [--work DIR]

Writes 20,000 pictures (once; 0.6 GB with the peers' own formats), installs each peer in an environment of its own
(once), and measures: each figure in a fresh process, the loaders in turns, so that what else the machine does meets
all of them. Files are read from the page cache. Linux only.

Every loader shuffles, each in its own way, and all decode by one function. Bytes count once they are read: LitData's
views of a mapped file are copied for that. mmtrain compares each sample with its checksum; the peers check nothing. The
12 million samples are 20 real shards that a manifest lists again and again; behind the billion there is no shard.

A ratio is of medians: for rates, mmtrain's over the peer's; for times, that of the line over that of the line before.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from loaders import environments, pictures, processes, resume, scale, table
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

OURS = ("ours", "ours_unverified")
WORKERS = 2
TRANSPORTED = 600  # batches


class Job(NamedTuple):
    """One figure of one round: what is measured, of whom, and the call that does it."""

    measure: str
    subject: str
    interpreter: Path
    module: str
    arguments: tuple[object, ...]


def main() -> None:
    arguments = _parser().parse_args()
    samples, rounds = (2000, 1) if arguments.quick else (pictures.SAMPLES, arguments.rounds)
    samples = arguments.samples or samples
    data = arguments.work / f"pictures-{samples}"
    console = Console(stderr=True)
    with console.status(f"writing {samples:,} pictures"):
        pictures.write(data / "tar", samples)
    interpreters, missing = _install(arguments.peers, arguments.work / "environments", data, console)
    jobs = [job for job in _jobs(data, interpreters, samples) if job.measure in arguments.only]
    load = os.getloadavg()
    runs = _measure(jobs, rounds, console)
    report = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": {"cpu": _cpu(), "cores": os.cpu_count(), "load": [load, os.getloadavg()]},
        "python": platform.python_version(),
        "versions": _versions(interpreters),
        "missing": missing,
        "samples": samples,
        "rounds": rounds,
        "runs": runs,
    }
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report, indent=1))
    _show(report, arguments.markdown)


def _parser() -> argparse.ArgumentParser:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=cache / "mmtrain" / "benchmarks", help="pictures, environments")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one round over 2,000 pictures: to see that it works")
    parser.add_argument("--samples", type=int, help="pictures, instead of 20,000")
    parser.add_argument("--peers", nargs="*", default=list(environments.PEERS), choices=list(environments.PEERS))
    parser.add_argument("--only", nargs="+", default=list(table.MEASURES), choices=list(table.MEASURES), help="figures")
    parser.add_argument("--markdown", action="store_true", help="print the table as the README shows it")
    parser.add_argument("--json", type=Path, help="write every run, the versions and the machine")
    return parser


def _install(
    peers: Sequence[str], folder: Path, data: Path, console: Console
) -> tuple[dict[str, Path], dict[str, str]]:
    """The interpreter of each loader, whose data is prepared; and why the others have none."""
    interpreters = {loader: Path(sys.executable) for loader in OURS}
    missing = {}
    for peer in peers:
        try:
            with console.status(f"installing {peer}, and writing its format"):
                python = environments.create(peer, folder / peer)
                processes.run(python, "measure", peer, "prepare", *_folders(data, peer))
            interpreters[peer] = python
        except (RuntimeError, processes.ProcessError) as error:
            missing[peer] = str(error)
    return interpreters, missing


def _versions(interpreters: dict[str, Path]) -> dict[str, str]:
    versions = {name: importlib.metadata.version(name) for name in ("torch", *environments.DECODERS)}
    versions["ours"] = importlib.metadata.version("mmtrain")
    for loader, peer in environments.PEERS.items():
        if loader in interpreters:
            versions[loader] = environments.version(interpreters[loader], peer.distribution)
    return versions


def _folders(data: Path, loader: str) -> tuple[object, ...]:
    return "--tar", data / "tar", "--prepared", data / loader


def _jobs(data: Path, interpreters: dict[str, Path], samples: int) -> Iterator[Job]:
    """What one round measures."""
    here = Path(sys.executable)
    for measure in table.RATES:
        for loader, interpreter in interpreters.items():
            if measure == "raw" or loader != "ours_unverified":
                count = ("--samples", samples, "--workers", WORKERS)
                arguments = (loader, measure, *_folders(data, loader), *count)
                yield Job(measure, loader, interpreter, "measure", arguments)
    for subject, at in zip(("at sample 0", "at 10,000,000"), (0, resume.AT), strict=True):
        yield Job("resume", subject, here, "resume", ("--tar", data / "tar", "--at", at, "--workers", WORKERS))
    for subject in ("on demand", "prefetched"):
        yield Job("remote", subject, here, "remote", (subject.replace(" ", "-"), "--tar", data / "tar"))
    for subject, transport in (("torch DataLoader", "torch"), ("mmtrain", "ours")):
        batches = min(TRANSPORTED, samples)
        yield Job("transport", subject, here, "transport", (transport, "--batches", batches))
    for shards, size in scale.SHAPES:
        yield Job("scale", f"{shards:,} shards x {size:,}", here, "scale", ("--shards", shards, "--samples", size))


def _measure(jobs: Sequence[Job], rounds: int, console: Console) -> list[dict[str, Any]]:
    runs = []
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("measuring", total=rounds * len(jobs))
        for number in range(rounds):
            for job in jobs:
                progress.update(task, description=f"{job.measure}: {job.subject}")
                try:
                    result = processes.run(job.interpreter, job.module, *job.arguments)
                except processes.ProcessError as error:
                    result = {"failed": str(error)}
                runs.append({"round": number, "measure": job.measure, "subject": job.subject, **result})
                progress.advance(task)
    return runs


def _show(report: dict[str, Any], markdown: bool) -> None:
    rows = list(table.rows(report["runs"], report["versions"], report["missing"]))
    machine, versions = report["machine"], report["versions"]
    packages = ", ".join(f"{name} {versions[name]}" for name in ("torch", *environments.DECODERS))
    load = " to ".join(f"{now[0]:.1f}" for now in machine["load"])
    note = (
        f"{report['date']}, {machine['cores']} cores of {machine['cpu']}, load {load}; Python {report['python']}, "
        f"{packages}; {report['rounds']} rounds over {report['samples']:,} pictures"
    )
    if markdown:
        print(table.markdown(rows), note, sep="\n\n")
        return
    shown = Table(*table.HEADER, caption=note)
    for row in rows:
        shown.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 150).print(shown)


def _cpu() -> str:
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()


if __name__ == "__main__":
    main()
