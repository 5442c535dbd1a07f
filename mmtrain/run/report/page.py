"""A report as one HTML page that needs nothing but itself: no script, no font, no network."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from mmtrain.errors import RunError
from mmtrain.run.report.cases import Case
from mmtrain.run.report.curves import Figure
from mmtrain.run.report.layout import Shown, comparison_lines, lay_out
from mmtrain.run.report.media import PICTURES, Medium, read_table
from mmtrain.run.report.origins import Varied, config_varied, origins_varied
from mmtrain.run.report.samples import newest_of
from mmtrain.run.report.style import STYLE
from mmtrain.run.report.table import Table

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_MOST_RUNS = 3  # named beside a value
_MOST_LINES = 20  # of a table that a run logged


@dataclass(frozen=True)
class Content:
    """What a page shows.

    Attributes:
        title: Of the page.
        tables: By name.
        figures: Each with its picture, an SVG element, by name.
        cases: All runs.
        samples: Most pictures and tables of runs.
    """

    title: str
    tables: Mapping[str, Table]
    figures: Mapping[str, tuple[Figure, str]]
    cases: Sequence[Case]
    samples: int


def html_page(content: Content) -> str:
    """The page, the same for the same runs."""
    sections = {
        "Tables": "".join(_table(name, table) for name, table in content.tables.items()),
        "Curves": _curves(content.figures),
        "Differences": _differences(content.cases),
        "Samples": _samples(content.cases, content.samples),
        "Runs": _runs(content.cases),
    }
    shown = {title: text for title, text in sections.items() if text}
    links = "".join(f'<a href="#{title.lower()}">{title}</a>' for title in shown)
    body = "".join(f'<h2 id="{title.lower()}">{title}</h2>\n{text}' for title, text in shown.items())
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(content.title)}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n"
        f'<h1>{escape(content.title)}</h1>\n<p class="dim">{_count(content.cases)}</p>\n<nav>{links}</nav>\n'
        f"{body}</body>\n</html>\n"
    )


def _count(cases: Sequence[Case]) -> str:
    states = [case.state for case in cases]
    found = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    return f"{len(cases)} run{'' if len(cases) == 1 else 's'}: {escape(found)}"


def _table(name: str, table: Table) -> str:
    layout = lay_out(table)
    heads = []
    for number, head in enumerate(layout.heads):
        last = number == len(layout.heads) - 1
        keys = "".join(f"<th>{escape(key) if last else ''}</th>" for key in layout.keys)
        cells = "".join(
            f'<th colspan="{span}" class="{"span" if span > 1 else "number"}">{escape(text)}</th>'
            for text, span in head
        )
        heads.append(f"<tr>{keys}{cells}</tr>")
    lines = [
        f"<tr>{''.join(f'<th>{escape(label)}</th>' for label in labels)}{''.join(map(_cell, cells))}</tr>"
        for labels, cells in layout.lines
    ]
    told = _warning("Not in the averages", table.left_out) + _warning("To be known", table.notes)
    return (
        f'<h3 id="table-{escape(name)}">{escape(layout.caption)}</h3>\n'
        f'<div class="scroll"><table>\n<thead>{"".join(heads)}</thead>\n<tbody>\n{chr(10).join(lines)}\n</tbody>'
        f'</table></div>\n<p class="dim">{escape(layout.legend)}</p>\n{told}{_comparisons(table)}'
    )


def _cell(shown: Shown | None) -> str:
    if shown is None or not shown.mean:
        count = f' <span class="count">{escape(shown.count)}</span>' if shown and shown.count else ""
        return f'<td class="number">–{count}</td>'
    std = f' <span class="sd">± {escape(shown.std)}</span>' if shown.std else ""
    count = f' <span class="count">{escape(shown.count)}</span>' if shown.count else ""
    mark = "*" if shown.marked else ""
    kind = "number best" if shown.best else "number"
    return f'<td class="{kind}"><span class="value">{escape(shown.mean)}</span>{std}{mark}{count}</td>'


def _comparisons(table: Table) -> str:
    lines = comparison_lines(table)
    if not lines:
        return ""
    rows = [list(line.values()) for line in lines]
    return f"<details><summary>Comparisons</summary>{_grid(list(lines[0]), rows)}</details>\n"


def _warning(title: str, lines: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<div class="warning"><strong>{title}</strong><ul>{items}</ul></div>\n' if items else ""


def _curves(figures: Mapping[str, tuple[Figure, str]]) -> str:
    shown = []
    for figure, svg in figures.values():
        notes = "".join(f"<br>{escape(note)}" for note in figure.notes)
        caption = f"{escape(figure.title)}: mean ± standard deviation over {escape(' and '.join(figure.question.over))}"
        shown.append(
            f'<figure role="img" aria-label="{escape(figure.title)}">{svg}<figcaption>{caption}{notes}</figcaption>'
            "</figure>\n"
        )
    return f'<div class="curves">{"".join(shown)}</div>\n' if shown else ""


def _differences(cases: Sequence[Case]) -> str:
    parts = {"config": config_varied(cases)} | origins_varied(cases)
    text = "".join(f"<h3>{part.capitalize()}</h3>\n{_varied(found)}" for part, found in parts.items() if found)
    known = sum(case.evidence is not None and case.evidence.manifest is not None for case in cases)
    same = [part for part, found in parts.items() if not found and (known or part == "config")]
    unknown = f" Of {len(cases) - known} of {len(cases)} runs only the config is known." if known < len(cases) else ""
    return f'{text}<p class="dim">The same in all runs: {", ".join(same) or "nothing"}.{unknown}</p>\n'


def _varied(found: Sequence[Varied]) -> str:
    rows = []
    for varied in found:
        for number, (value, runs) in enumerate(varied.runs.items()):
            named = ", ".join(runs[:_MOST_RUNS]) + (
                f" and {len(runs) - _MOST_RUNS} more" if len(runs) > _MOST_RUNS else ""
            )
            rows.append([varied.name if number == 0 else "", value, str(len(runs)), named])
    return _grid(["", "value", "n", "runs"], rows)


def _runs(cases: Sequence[Case]) -> str:
    lines = []
    for case in cases:
        listed = case.evidence.listed if case.evidence is not None else None
        step = f"{listed.step} of {listed.total_steps or '?'}" if listed and listed.step is not None else ""
        state = f'<td class="state-{escape(case.state)}">{escape(case.state)}</td>'
        cells = [step, case.note, listed.started_at or "" if listed else "", listed.host or "" if listed else ""]
        lines.append(
            f"<tr><th>{escape(str(case.path))}</th>{state}{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
        )
    head = "".join(f"<th>{name}</th>" for name in ("run", "state", "step", "note", "started", "host"))
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n<tbody>{"".join(lines)}</tbody></table></div>\n'


def _grid(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    titles = "".join(f"<th>{escape(text)}</th>" for text in head)
    lines = "".join(f"<tr><th>{escape(row[0])}</th>{''.join(map(_text_cell, row[1:]))}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{titles}</tr></thead><tbody>{lines}</tbody></table></div>\n'


def _text_cell(text: str) -> str:
    return f'<td class="text">{escape(text)}</td>'


def _samples(cases: Sequence[Case], most: int) -> str:
    found = newest_of(cases)
    shown = [_sample(case, medium) for case, medium in found[:most]]
    more = len(found) - len(shown)
    left = f'<p class="dim">{more} more are in media/ of the runs; --samples N shows more.</p>\n' if more > 0 else ""
    return f'<div class="samples">{"".join(shown)}</div>\n{left}' if shown else ""


def _sample(case: Case, medium: Medium) -> str:
    caption = f"<figcaption>{escape(f'{case.path}: {medium.key}, step {medium.step}')}</figcaption>"
    try:
        if not medium.is_picture:
            header, *rows = read_table(medium.path) or [[]]
            return f"<figure>{_grid(header, rows[:_MOST_LINES]) if header else ''}{caption}</figure>\n"
        data = base64.b64encode(medium.path.read_bytes()).decode()
    except (OSError, RunError) as error:
        return f"<figure><p>It cannot be read: {escape(str(error))}</p>{caption}</figure>\n"
    kind = PICTURES[medium.path.suffix.lower()]
    alt = escape(f"{medium.key} of {case.path}")
    return f'<figure><img alt="{alt}" src="data:{kind};base64,{data}">{caption}</figure>\n'
