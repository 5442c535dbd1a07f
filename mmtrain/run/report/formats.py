"""A table as Markdown, as LaTeX for booktabs, and as CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from typing import Literal

from mmtrain.run.report.layout import Layout, Shown, column_name, lay_out
from mmtrain.run.report.members import Row
from mmtrain.run.report.table import Table

Format = Literal["md", "latex", "csv"]

SUFFIXES: dict[Format, str] = {"md": ".md", "latex": ".tex", "csv": ".csv"}

_WIDE = 60  # characters from which on a table may be wider than a page: LaTeX is made to measure it
# fmt: off
_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%",
    "_": r"\_", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': "{''}", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "±": r"$\pm$",
    "∞": r"$\infty$",
}
# fmt: on


def render(table: Table, form: Format, name: str) -> str:
    """A table as text.

    Args:
        table: The table.
        form: Its format.
        name: The table's name, for LaTeX's label.
    """
    forms: dict[Format, Callable[[], str]] = {
        "md": lambda: _markdown(table),
        "latex": lambda: _latex(table, name),
        "csv": lambda: _csv(table),
    }
    return forms[form]()


def escape_latex(text: str) -> str:
    """Text for LaTeX's text mode."""
    return "".join(_LATEX.get(character, character) for character in text)


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is, in a table, too."""
    return re.sub(r"([\\`*_\[\]<>|~#])", r"\\\1", text)


def _markdown(table: Table) -> str:
    layout = lay_out(table)
    header = [*layout.keys, *(column_name(table, column) for column in table.columns)]
    lines = [[escape_markdown(text) for text in header]]
    for labels, cells in layout.lines:
        lines.append([*map(escape_markdown, labels), *map(_markdown_cell, cells)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    dashes = ["-" * width if i < len(layout.keys) else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    lines.insert(1, dashes)
    rows = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in lines]
    text = [f"**{escape_markdown(layout.caption)}**", "", *rows, "", escape_markdown(layout.legend)]
    for title, told in (("Not in the averages:", table.left_out), ("To be known:", table.notes)):
        if told:
            text += ["", title, "", *(f"- {escape_markdown(line)}" for line in told)]
    return "\n".join(text) + "\n"


def _markdown_cell(shown: Shown | None) -> str:
    if shown is None or not shown.mean:
        return f"– ({shown.count})" if shown is not None and shown.count else "–"
    value = f"{shown.mean} ± {shown.std}" if shown.std else shown.mean
    value = f"**{value}**" if shown.best else value
    return f"{value}{chr(92) + '*' if shown.marked else ''}{f' ({shown.count})' if shown.count else ''}"


def _latex(table: Table, name: str) -> str:
    layout = lay_out(table)
    keys, columns = len(layout.keys), len(table.columns)
    body = [
        *_latex_heads(layout),
        r"    \midrule",
        *_latex_lines(layout),
    ]
    tabular = [
        rf"  \begin{{tabular}}{{{'l' * keys}{'r' * columns}}}",
        r"    \toprule",
        *body,
        r"    \bottomrule",
        r"  \end{tabular}",
    ]
    wide = _width(layout) > _WIDE
    if wide:
        shrunk = r"  \ifdim\wd0>\textwidth\resizebox{\textwidth}{!}{\usebox0}\else\usebox0\fi"
        tabular = [r"  \sbox0{%", *tabular[:-1], tabular[-1] + "}%", shrunk]
    told = [*(f"not in the averages: {line}" for line in table.left_out), *table.notes]
    return "\n".join(
        [
            rf"% needs \usepackage{{booktabs}}{' and graphicx' if wide else ''}",
            *(f"% {line}" for text in told for line in text.splitlines()),
            r"\begin{table}[t]",
            r"  \centering",
            rf"  \caption{{{escape_latex(layout.caption)}. {escape_latex(layout.legend)}}}",
            rf"  \label{{tab:{re.sub(r'[^A-Za-z0-9]+', '-', name)}}}\smallskip",
            *tabular,
            r"\end{table}",
            "",
        ]
    )


def _latex_lines(layout: Layout) -> list[str]:
    """The rows; a label stands only where it changes, and rows of several keys are grouped by the first."""
    lines: list[str] = []
    before: Row = ()
    for labels, cells in layout.lines:
        same = next((i for i, pair in enumerate(zip(labels, before, strict=False)) if pair[0] != pair[1]), 0)
        if before and len(labels) > 1 and same == 0:
            lines.append(r"    \addlinespace")
        shown = ["" if number < same else escape_latex(label) for number, label in enumerate(labels)]
        lines.append("    " + " & ".join([*shown, *map(_latex_cell, cells)]) + r" \\")
        before = labels
    return lines


def _latex_heads(layout: Layout) -> list[str]:
    """Header lines, a rule below each text that spans columns."""
    lines = []
    keys = len(layout.keys)
    for number, head in enumerate(layout.heads):
        last = number == len(layout.heads) - 1
        names = [escape_latex(key) for key in layout.keys] if last else [""] * keys
        cells, rules, first = [], [], keys + 1
        for text, span in head:
            kind = "r" if span == 1 else "c"
            cells.append(rf"\multicolumn{{{span}}}{{{kind}}}{{{escape_latex(text)}}}")
            if span > 1:
                rules.append(rf"\cmidrule(lr){{{first}-{first + span - 1}}}")
            first += span
        lines.append("    " + " & ".join([*names, *cells]) + r" \\")
        if rules:
            lines.append("    " + " ".join(rules))
    return lines


def _latex_cell(shown: Shown | None) -> str:
    if shown is None or not shown.mean:
        return f"-- ({shown.count})" if shown is not None and shown.count else "--"
    mean = shown.mean.replace("∞", r"\infty").replace("NaN", r"\mathrm{NaN}")
    mean = rf"\mathbf{{{mean}}}" if shown.best else mean
    spread = rf" \pm {shown.std}".replace("∞", r"\infty").replace("NaN", r"\mathrm{NaN}") if shown.std else ""
    mark = "^{*}" if shown.marked else ""
    count = rf" {{\footnotesize ({shown.count})}}" if shown.count else ""
    return f"${mean}{spread}{mark}${count}"


def _width(layout: Layout) -> int:
    """Characters of the table's longest line, about."""
    columns: list[Sequence[str]] = [layout.keys]
    columns += [labels for labels, _ in layout.lines]
    cells = [[_plain(shown) for shown in shown_cells] for _, shown_cells in layout.lines]
    heads = [[text for text, span in layout.heads[-1] for _ in range(span)]]
    labels = sum(max(map(len, column)) for column in zip(*columns, strict=True))
    return labels + sum(2 + max(map(len, column)) for column in zip(*heads, *cells, strict=True))


def _plain(shown: Shown | None) -> str:
    return "--" if shown is None else f"{shown.mean} ± {shown.std} {shown.count}"


def _csv(table: Table) -> str:
    """A line for each cell, numbers in full and unscaled."""
    question = table.question
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = [*question.rows, *([question.cols] if question.cols else []), "metric", "mean", "std", "n", "asked", "best"]
    writer.writerow([*head, "pairs", "difference", "low", "high", "p", "significant", "values"])
    for (row, column), cell in table.cells.items():
        found = cell.comparison
        tested = (
            (found.pairs, found.difference, found.low, found.high, found.p, found.significant) if found else [""] * 6
        )
        values = " ".join(f"{member}={value!r}" for member, value in cell.values.items())
        place = [*row, *([column.col] if question.cols else []), column.metric]
        mean = cell.mean if cell.n else None
        writer.writerow([*place, mean, cell.std, cell.n, cell.asked, cell.best, *tested, values])
    return text.getvalue()
