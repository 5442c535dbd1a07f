"""The figure: how much of the throughput of single GPUs a cluster keeps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator, PercentFormatter

from scaling.analytic import Workload, step_seconds
from scaling.cluster import Cluster
from scaling.examples import Example
from scaling.prediction import fits

STYLES = {"ddp": ("#2f7fd6", "-", "o"), "fsdp": ("#e07a1f", "--", "s"), "hsdp": ("#21a179", ":", "^")}
_GRID = "#d3d8de"


def draw(
    drawn: Sequence[Example], cluster: Cluster, devices: Sequence[int], fits_bytes: float, note: str, out: Path
) -> None:
    """Writes the figure: a panel for each model, a line for each strategy that has room."""
    figure = Figure(figsize=(3.6 * len(drawn), 3.6), layout="constrained")
    panels = figure.subplots(1, len(drawn), sharey=True, squeeze=False)[0]
    for axes, example in zip(panels, drawn, strict=True):
        _draw(axes, example.work, cluster, devices, fits_bytes)
        axes.set_title(f"{example.title}\n{1000 * example.work.step_s:,.0f} ms on one", fontsize=9)
    panels[0].set_ylabel("throughput, of that of single GPUs", fontsize=9)
    panels[0].legend(frameon=False, fontsize=9, loc="lower left")
    figure.supxlabel(note, fontsize=7.5)
    figure.savefig(out, dpi=160, facecolor="white", metadata={"Software": None})


def _draw(axes: Axes, work: Workload, cluster: Cluster, devices: Sequence[int], fits_bytes: float) -> None:
    for name, (colour, dash, marker) in STYLES.items():
        counts = [count for count in devices if fits(name, work, cluster, count, fits_bytes)]
        shares = [work.step_s / step_seconds(name, work, cluster, count) for count in counts]
        axes.plot(counts, shares, dash, color=colour, marker=marker, markersize=4, linewidth=1.6, label=name)
    missing = [name for name in STYLES if not any(fits(name, work, cluster, count, fits_bytes) for count in devices)]
    if missing:
        axes.text(0.97, 0.03, f"{', '.join(missing)}: no room", transform=axes.transAxes, ha="right", fontsize=8)
    axes.set_xscale("log", base=2)
    axes.set_xticks(devices)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:,.0f}"))
    axes.tick_params(axis="x", labelrotation=45, labelsize=8)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_ylim(0, 1.05)
    axes.set_xlabel("GPUs", fontsize=9)
    axes.grid(color=_GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
