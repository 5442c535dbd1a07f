"""Markdown, LaTeX and CSV say the same, and nothing in a config can break them."""

from __future__ import annotations

import csv
import io
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from reported_runs import METRIC, config_of, write_reported

from mmtrain.run.report.cases import Cases, find_cases
from mmtrain.run.report.formats import escape_latex, render
from mmtrain.run.report.question import Question
from mmtrain.run.report.table import Table, build_table

NASTY = '50%_{x}#^~\\"<|>$&*`[a]'
QUESTION = Question(rows=("model.name", "optim.lr"), metrics=(METRIC,), baseline="plain, 1e-3")
LOSS = "eval/val/loss_ce"


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Cases:
    """Two models, one of a bad name, with two learning rates on two mixtures; one run of 24 failed."""
    root = tmp_path_factory.mktemp("runs")
    for number in range(24):
        seed, lr, name, mix = number % 3, [1e-3, 4e-3][number // 3 % 2], ["plain", NASTY][number // 6 % 2], number // 12
        value = 0.5 + 10 * lr + 0.01 * seed * seed + 0.1 * mix + (0.02 + 0.001 * seed if name == NASTY else 0)
        reason = "failed: 50% of_it" if number == 0 else "finished"
        config = config_of(f"run{number}", seed, lr, model__name=name, data__mix=mix)
        write_reported(root / f"run{number}", config, {METRIC: [value], LOSS: [1.5 - value]}, reason=reason)
    return find_cases([root])


def ask(cases: Cases, question: Question = QUESTION) -> Table:
    return build_table(cases, replace(question, cols="data.mix"))


def test_markdown_has_a_line_for_each_row_and_says_what_is_missing(cases: Cases) -> None:
    text = render(ask(cases), "md", "main")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 4
    assert all(len(line) == len(lines[0]) for line in lines), "it is read as it is, too"
    cells = [cell.strip() for cell in lines[2].strip("|").split(" | ")]
    assert cells == ["plain", "1e-3", "0.5350 ± 0.0212 (n=2 of 3)", "0.6267 ± 0.0208"]
    assert "**0.6777 ± 0.0218**" in text and text.count("**") == 2 + 4, "the caption, and the best of two columns"
    assert "run0: failed (50% of\\_it)" in text
    assert "n = 3 unless a cell says otherwise" in text


def test_significance_is_marked_against_the_baseline_and_explained(cases: Cases) -> None:
    text = render(ask(cases), "md", "main")
    row = next(line for line in text.splitlines() if "4e-3" in line and "plain" in line)
    # The same seeds differ by exactly 0.03: a spread of zero is no proof.
    assert "\\*" not in row
    assert "differs from the baseline plain, 1e-3 (two-sided paired t-test by seed" in text
    nasty = next(line for line in text.splitlines() if "1e-3" in line and "50%" in line)
    assert nasty.count("0.6477 ± 0.0218\\*") == 1
    assert "could not be tested" in text


def test_markdown_shows_a_bad_name_as_it_is(cases: Cases) -> None:
    text = render(ask(cases), "md", "main")
    assert '50%\\_{x}\\#^\\~\\\\"\\<\\|\\>$&\\*\\`\\[a\\]' in text


def test_csv_has_every_number_in_full(cases: Cases) -> None:
    table = ask(cases)
    lines = list(csv.DictReader(io.StringIO(render(table, "csv", "main"))))
    assert len(lines) == len(table.cells) == 8
    for line, ((row, column), cell) in zip(lines, table.cells.items(), strict=True):
        assert (line["model.name"], line["optim.lr"], line["data.mix"]) == (*row, column.col)
        assert (float(line["mean"]), int(line["n"]), int(line["asked"])) == (cell.mean, cell.n, 3)
        assert [float(part.split("=")[1]) for part in line["values"].split()] == list(cell.values.values())


def test_a_percentage_is_scaled_in_tables_and_not_in_csv(cases: Cases) -> None:
    table = ask(cases, replace(QUESTION, percent=(METRIC,)))
    assert "| 53.50 ± 2.12 (n=2 of 3)" in render(table, "md", "main")
    assert "val/accuracy (%) ↑" in render(
        build_table(
            cases, replace(QUESTION, percent=(METRIC,), rows=("model.name", "optim.lr", "data.mix"), baseline=None)
        ),
        "md",
        "x",
    )
    assert ",0.535," in render(table, "csv", "main")


def test_labels_rename_keys_values_and_metrics(cases: Cases) -> None:
    labels = {"optim.lr": "learning rate", "1e-3": "slow", METRIC: "accuracy", "data.mix": "mixture", "0": "none"}
    text = render(ask(cases, replace(QUESTION, labels=labels)), "md", "main")
    assert "| learning rate |" in text and "| slow " in text and "mixture=none" in text
    assert text.startswith("**accuracy by model.name and learning rate and mixture**")
    assert "the baseline plain, slow" in text


def test_latex_escapes_what_it_would_take_for_its_own() -> None:
    assert escape_latex("a_b & 50% #1 $x {y} ~^\\") == (
        r"a\_b \& 50\% \#1 \$x \{y\} \textasciitilde{}\textasciicircum{}\textbackslash{}"
    )


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX here")
def test_latex_compiles_narrow_and_wide_and_stays_within_the_page(cases: Cases, tmp_path: Path) -> None:
    narrow = build_table(cases, replace(QUESTION, rows=("model.name", "optim.lr", "data.mix"), baseline=None))
    wide = ask(cases, replace(QUESTION, metrics=(METRIC, LOSS), mode=("max", "min")))
    for name, table in (("narrow", narrow), ("wide", wide)):
        (tmp_path / f"{name}.tex").write_text(render(table, "latex", name))
    assert r"\ifdim\wd0>\textwidth" in (tmp_path / "wide.tex").read_text()
    document = (
        r"\documentclass{article}\usepackage{booktabs,graphicx}\begin{document}"
        r"\input{narrow}\input{wide}Tables \ref{tab:narrow} and \ref{tab:wide}.\end{document}"
    )
    (tmp_path / "paper.tex").write_text(document)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout, "a table is wider than the page"
    assert (tmp_path / "paper.pdf").stat().st_size > 10_000
