"""Curves as pictures: SVG for a file, SVG for a page that may be light or dark, and PNG."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np

from mmtrain.errors import RunError
from mmtrain.run.report.curves import Curve, Figure

# Of one lightness, so that they stand out on white and on black, and in an order that the colour-blind can tell apart.
_COLOURS = ("#2f7fd6", "#e07a1f", "#21a179", "#cf4f8f", "#8a6fd1", "#b08a1e", "#1aa0b8", "#d9534a")
_DASHES = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (6, 2, 1.5, 2)))
_INSIDE = 6  # labels that a legend within the axes has room for
# Ink and grid as they are drawn, and what the page makes of them.
_INK, _GRID = "#24292f", "#d3d8de"
_PAGE_INK, _PAGE_GRID = "currentColor", "var(--grid)"
_DPI = 200


@dataclass(frozen=True)
class Pictures:
    """One figure as pictures: ``svg`` on white, ``inline`` without paper and with the page's ink, ``png``."""

    svg: str
    inline: str
    png: bytes


def draw(figure: Figure, name: str) -> Pictures:
    """Draws a figure; the same figure gives the same bytes.

    Args:
        figure: What to draw.
        name: Unlike that of every other figure of a page: names in the SVG are made of it.

    Raises:
        RunError: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure as Canvas
    except ImportError:
        raise RunError(
            "curves and pages need the package matplotlib",
            mend="pip install 'mmtrain[report]'; without --out the table is printed alone",
        ) from None
    settings: Any = {
        "svg.fonttype": "path",
        "svg.hashsalt": name,
        "font.size": 9,
        "font.family": "DejaVu Sans",
        "axes.edgecolor": _INK,
        "axes.labelcolor": _INK,
        "text.color": _INK,
        "xtick.color": _INK,
        "ytick.color": _INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with matplotlib.rc_context(settings):
        canvas = Canvas(figsize=(6.4, 3.6), layout="constrained")
        _draw(canvas.add_subplot(), figure)
        svg = _svg(canvas, "white")
        inline = _own_names(_svg(canvas, "none"), name).replace(_INK, _PAGE_INK).replace(_GRID, _PAGE_GRID)
        png = io.BytesIO()
        canvas.savefig(png, format="png", dpi=_DPI, facecolor="white", metadata={"Software": None})
    return Pictures(svg, inline[inline.index("<svg") :], png.getvalue())


def _svg(canvas: Any, paper: str) -> str:
    text = io.StringIO()
    canvas.savefig(text, format="svg", facecolor=paper, transparent=paper == "none", metadata={"Date": None})
    return text.getvalue()


def _own_names(svg: str, name: str) -> str:
    """The names within a picture, made unlike those of the other pictures of a page."""
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)


def _draw(axes: Any, figure: Figure) -> None:
    question = figure.question
    axes.grid(color=_GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    dashes = [dash for dash in _DASHES for _ in _COLOURS]
    for curve, colour, dash in zip(figure.curves, cycle(_COLOURS), cycle(dashes), strict=False):
        _draw_curve(axes, curve, colour, dash)
    if question.log_y:
        axes.set_yscale("log")
    axes.set_xlabel(question.labels.get(question.x, question.x))
    axes.set_ylabel(question.labels.get(question.metric, question.metric))
    axes.margins(x=0.02)
    names = ", ".join(question.labels.get(key, key) for key in question.lines)
    beside = len(figure.curves) > _INSIDE
    place = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0)} if beside else {"loc": "best"}
    axes.legend(title=names, frameon=False, fontsize=8, title_fontsize=8, **place)


def _draw_curve(axes: Any, curve: Curve, colour: str, dash: Any) -> None:
    marker = "o" if len(curve.x) == 1 else None
    count = f" (n={curve.n})"
    if curve.n:
        axes.plot(
            curve.x, curve.mean, color=colour, linestyle=dash, linewidth=1.6, marker=marker, label=curve.label + count
        )
    if curve.n > 1 and len(curve.x) == 1:
        axes.errorbar(curve.x, curve.mean, curve.std, color=colour, capsize=3, linewidth=1.2)
    elif curve.n > 1:
        low, high = curve.mean - curve.std, curve.mean + curve.std
        axes.fill_between(curve.x, low, high, where=np.isfinite(low + high), color=colour, alpha=0.2, linewidth=0)
    for number, (x, y) in enumerate(curve.unfinished):
        label = f"{curve.label}, not done" if number == 0 else None
        axes.plot(x, y, color=colour, linestyle=":", linewidth=1.0, marker=".", markersize=2, label=label)
