"""The table of a sweep, of one moment or kept up to date, a line a job however narrow the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.text import Text

from mmtrain.run.sweep.grid import value_text
from mmtrain.run.sweep.plan import Element, Sweep
from mmtrain.run.sweep.planner import planned_metric
from mmtrain.run.sweep.progress import Progress
from mmtrain.run.sweep.search import drawn
from mmtrain.run.sweep.state import State, Status, counts

_STYLES = {State.RUNNING: "cyan", State.FAILED: "red", State.DONE: "green", State.PREEMPTED: "yellow"}
_COLUMNS = ("", "job", "state", "step", "best", "loss", "samples/s", "note")
_LEFT = ("job", "state", "note")
# What gives way where the terminal is too narrow, in this order, and down to how much.
_YIELDS = (("note", 24), ("samples/s", 0), ("loss", 0), ("note", 12), ("job", 16), ("note", 0), ("best", 0))
_GAP = 2


class SweepTable:
    """Shows the jobs of a sweep.

    Args:
        sweep: The sweep.
        elements: The jobs to show.
    """

    def __init__(self, sweep: Sweep, elements: Sequence[Element]) -> None:
        self.sweep = sweep
        self.elements = elements
        self.metric = planned_metric(sweep)
        self._progress = {element.index: Progress(sweep.run(element), self.metric) for element in elements}

    def render(self, found: Mapping[int, Status], width: int | None = None, most: int | None = None) -> Text:
        """The table of this moment.

        Args:
            found: The state of each job, by index.
            width: Characters in a line; None for as many as it takes. Columns are left out, then texts cut.
            most: Jobs that there is room for; None for all. Those that run or failed come first.
        """
        shown = self._shown(found, most)
        rows = [self._cells(element, found[element.index]) for element in shown]
        widths = _fitted(_widths(rows), width)
        best = f"; best {self.metric.name}" if self.metric is not None else ""
        lines = [Text(f"{self.sweep.path}: {counts(found.values())}{best}"), _line(dict.fromkeys(_COLUMNS), widths)]
        lines += [
            _line(row, widths, _STYLES.get(found[element.index].state, ""))
            for element, row in zip(shown, rows, strict=True)
        ]
        if left := len(self.elements) - len(shown):
            lines.append(Text(f"and {left} more", style="dim"))
        table = Text("\n").join(lines)
        table.no_wrap, table.overflow = True, "ellipsis"
        return table

    def best(self) -> tuple[Element, float] | None:
        """The job with the best value of the metric, and the value; None where there is none."""
        best: tuple[Element, float] | None = None
        for element in self.elements:
            value = self._progress[element.index].refresh().best
            if self.metric is None or value is None:
                continue
            if best is None or self.metric.better(value, best[1]):
                best = (element, value)
        return best

    def _shown(self, found: Mapping[int, Status], most: int | None) -> list[Element]:
        if most is None or len(self.elements) <= most:
            return list(self.elements)
        order = (State.RUNNING, State.FAILED, State.PREEMPTED, State.DONE, State.WAITING)
        ranked = sorted(self.elements, key=lambda element: order.index(found[element.index].state))[: max(0, most - 1)]
        return sorted(ranked, key=lambda element: element.index)

    def _cells(self, element: Element, status: Status) -> dict[str, str]:
        progress = self._progress[element.index].refresh()
        values = brief(drawn(self.sweep, element.index) or ())
        step = f"{progress.step}/{progress.total_steps or '?'}" if progress.step or progress.total_steps else ""
        cells = (
            str(element.index),
            element.name,
            str(status.state),
            step,
            _number(progress.best),
            _number(progress.loss),
            _number(progress.samples_per_second),
            "  ".join(filter(None, (values, status.note))),
        )
        return dict(zip(_COLUMNS, cells, strict=True))


def brief(overrides: Sequence[str]) -> str:
    """Overrides on one line, numbers to four digits, as they are drawn with seventeen."""
    pairs = [line.partition("=") for line in overrides]
    return " ".join(f"{key}={_brief_value(value)}" for key, _, value in pairs)


def _brief_value(text: str) -> str:
    try:
        return text if text.lstrip("+-").isdigit() else value_text(float(f"{float(text):.4g}"))
    except ValueError:
        return text


def _widths(rows: Sequence[Mapping[str, str]]) -> dict[str, int]:
    """Of the columns that hold anything."""
    used = {name: max((len(row[name]) for row in rows), default=0) for name in _COLUMNS}
    always = ("", "job", "state", "step")
    return {name: max(size, len(name)) for name, size in used.items() if size or name in always}


def _fitted(widths: dict[str, int], width: int | None) -> dict[str, int]:
    def excess() -> int:
        return sum(widths.values()) + _GAP * (len(widths) - 1) - (width or 0)

    if width is None:
        return widths
    for name, least in _YIELDS:
        if excess() > 0 and name in widths:
            widths[name] = max(min(least, widths[name]), widths[name] - excess())
            if least == 0:
                del widths[name]
    return widths


def _line(cells: Mapping[str, str | None], widths: Mapping[str, int], style: str = "bold") -> Text:
    """A row, or of no cells the header."""
    line = Text()
    for name, width in widths.items():
        value = cells[name]
        text = name if value is None else value
        cut = text if len(text) <= width else _cut(text, width, tail=width // 3 if name == "job" else 0)
        padded = cut.ljust(width) if name in _LEFT else cut.rjust(width)
        line.append(padded, style if value is None or name == "state" else "")
        line.append(" " * _GAP)
    line.rstrip()
    return line


def _cut(text: str, width: int, tail: int) -> str:
    """A text without its middle, or its end: names of jobs begin alike."""
    return f"{text[: width - 1 - tail]}…{text[len(text) - tail :]}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
