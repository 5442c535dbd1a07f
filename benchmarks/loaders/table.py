"""The table: what was measured, of whom, and how that stands to what was promised."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

Run = Mapping[str, Any]
"""One measurement: ``measure``, ``subject``, ``round``, and figures in seconds, bytes and samples, or ``failed``."""

HEADER = ("measured", "of", "best", "median", "per CPU-second", "ratio", "ratio by CPU", "target")
NAMES = {
    "ours": "mmtrain",
    "ours_unverified": "mmtrain, no checksums",
    "webdataset": "webdataset",
    "litdata": "LitData",
    "streaming": "MosaicML Streaming",
    "energon": "megatron-energon",
}

Row = tuple[str, ...]
"""As many columns as the header has."""


class Rate(NamedTuple):
    """A race: what is done with a sample, and how many times a peer's rate ours shall reach."""

    title: str
    targets: Mapping[str, float]


class Pair(NamedTuple):
    """Two times, whose ratio, the second over the first, shall not exceed ``target``."""

    title: str
    first: str
    second: str
    figure: str
    target: float | None


RATES = {
    "raw": Rate("bytes of a sample, one process (samples/s)", {"webdataset": 8.0, "litdata": 1.3}),
    "batches": Rate(
        "decode, crop, flip, batches of 64, two workers (samples/s)",
        {"webdataset": 1.6, "litdata": 1.2, "streaming": 2.0, "energon": 2.0},
    ),
}
PAIRS = {
    "resume": Pair(
        "first batch of 12 million samples, workers' start included", "at sample 0", "at 10,000,000", "seconds", 2.0
    ),
    "remote": Pair("an epoch's wait for shards over slow HTTP", "on demand", "prefetched", "seconds", 0.3),
    "transport": Pair("CPU time to bring over a batch of 2.4 MB", "torch DataLoader", "mmtrain", "cpu", None),
}
SCALES = {
    "a billion samples: planning the first batch": "first",
    "a billion samples: the batch at 90%": "resumed",
    "a billion samples: reading the manifest": "load",
}
MEASURES = (*RATES, *PAIRS, "scale")


def rows(runs: Sequence[Run], versions: Mapping[str, str], missing: Mapping[str, str]) -> Iterator[Row]:
    """The rows below the header, in the order of the header's columns."""
    good = [run for run in runs if "failed" not in run]
    for measure, rate in RATES.items():
        yield from _rates(rate, [run for run in good if run["measure"] == measure], versions)
    for measure, pair in PAIRS.items():
        yield from _pair(pair, [run for run in good if run["measure"] == measure])
    yield from _scales([run for run in good if run["measure"] == "scale"])
    for peer, reason in missing.items():
        yield "not installed", NAMES[peer], reason, *[""] * 5
    failures = Counter((run["measure"], run["subject"], run["failed"]) for run in runs if "failed" in run)
    for (measure, subject, reason), times in failures.items():
        yield f"failed: {measure}", NAMES.get(subject, subject), f"{times} times: {reason}", *[""] * 5


def markdown(table: Sequence[Sequence[str]]) -> str:
    """The table as the README shows it."""
    lines = [HEADER, ("---", "---", *["---:"] * (len(HEADER) - 2)), *table]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _rates(rate: Rate, runs: Sequence[Run], versions: Mapping[str, str]) -> Iterator[Row]:
    wall, cpu = (
        {
            subject: [run["samples"] / run[clock] for run in runs if run["subject"] == subject]
            for subject in NAMES
            if any(run["subject"] == subject for run in runs)
        }
        for clock in ("wall", "cpu")
    )
    title = rate.title
    for subject in wall:
        name = f"{NAMES[subject]} {versions.get(subject, '')}".strip()
        figures = (f"{max(wall[subject]):,.0f}", f"{median(wall[subject]):,.0f}", f"{median(cpu[subject]):,.0f}")
        versus: tuple[str, ...] = ("", "", "")
        if "ours" in wall and not subject.startswith("ours"):
            ratio, by_cpu = (median(clock["ours"]) / median(clock[subject]) for clock in (wall, cpu))
            target = rate.targets.get(subject)
            versus = (f"{ratio:.2f}", f"{by_cpu:.2f}", "" if target is None else _judged(">=", target, ratio >= target))
        yield title, name, *figures, *versus
        title = ""


def _pair(pair: Pair, runs: Sequence[Run]) -> Iterator[Row]:
    first, second = (
        [run[pair.figure] for run in runs if run["subject"] == subject] for subject in (pair.first, pair.second)
    )
    if not first or not second:
        return
    yield pair.title, pair.first, _time(min(first)), _time(median(first)), *[""] * 4
    ratio = median(second) / median(first)
    target = "" if pair.target is None else _judged("<=", pair.target, ratio <= pair.target)
    yield "", pair.second, _time(min(second)), _time(median(second)), "", f"{ratio:.2f}", "", target


def _scales(runs: Sequence[Run]) -> Iterator[Row]:
    for title, part in SCALES.items():
        for subject in dict.fromkeys(run["subject"] for run in runs):
            own = [run[part] for run in runs if run["subject"] == subject]
            best, middle = (
                f"{_time(of(run['seconds'] for run in own))}, {of(run['bytes'] for run in own) / 1e6:,.1f} MB"
                for of in (min, median)
            )
            yield title, subject, best, middle, *[""] * 4
            title = ""


def _judged(sign: str, target: float, met: bool) -> str:
    return f"{sign} {target:g}: {'met' if met else 'missed'}"


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.2f} s"
