"""A report as files: each table in every format, each figure as SVG and PNG, and one page with all of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from mmtrain.callback.checkpoint_io import write_atomically
from mmtrain.errors import RunError
from mmtrain.run.report.cases import Cases, find_cases
from mmtrain.run.report.curves import Figure, build_figure
from mmtrain.run.report.formats import SUFFIXES, render
from mmtrain.run.report.page import Content, html_page
from mmtrain.run.report.paper import Paper, Roots
from mmtrain.run.report.plot import draw
from mmtrain.run.report.table import Table, build_table


class Report:
    """The answers to a paper's questions.

    Args:
        paper: The questions.

    Attributes:
        tables: By name.

    Raises:
        UserError: See `find_cases` and `build_table`.
    """

    def __init__(self, paper: Paper) -> None:
        self.paper = paper
        self._found: dict[Roots, Cases] = {}
        self.tables: Mapping[str, Table] = {
            name: build_table(self._cases(roots), question) for name, (roots, question) in paper.tables.items()
        }

    def write(self, out: Path, samples: int, wrote: Callable[[Path], None]) -> None:
        """Writes all files, each whole or not at all.

        Args:
            out: Folder; files of other reports in it stay.
            samples: Most pictures and tables of runs that the page shows.
            wrote: Called with each file.

        Raises:
            UserError: matplotlib is not installed, a figure's question cannot be answered, or the folder is read-only.
        """
        figures = self._figures()
        pictures = {name: draw(figure, name) for name, figure in figures.items()}
        files: dict[str, bytes] = {}
        for name, table in self.tables.items():
            files |= {f"{name}{suffix}": render(table, form, name).encode() for form, suffix in SUFFIXES.items()}
        for name, picture in pictures.items():
            files |= {f"{name}.svg": picture.svg.encode(), f"{name}.png": picture.png}
        cases = {case.path.resolve(): case for found in self._found.values() for case in found.cases}
        shown = {name: (figure, pictures[name].inline) for name, figure in figures.items()}
        content = Content(self.paper.title, self.tables, shown, list(cases.values()), samples)
        files["index.html"] = html_page(content).encode()
        try:
            out.mkdir(parents=True, exist_ok=True)
            for name, data in files.items():
                write_atomically(out / name, lambda file, data=data: file.write(data))  # type: ignore[misc]
                wrote(out / name)
        except OSError as error:
            raise RunError(
                f"the report cannot be written: {error.strerror}", where=str(out), mend="choose another --out"
            ) from error

    def _figures(self) -> dict[str, Figure]:
        return {
            name: build_figure(self._cases(roots), question) for name, (roots, question) in self.paper.figures.items()
        }

    def _cases(self, roots: Roots) -> Cases:
        if roots not in self._found:
            self._found[roots] = find_cases(roots)
        return self._found[roots]
