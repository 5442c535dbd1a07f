"""``report``: from a sweep to a table, with every mistake told."""

from __future__ import annotations

import csv
import io
import json
import shlex
import shutil
import statistics
import subprocess
from pathlib import Path

import pytest
from browser import chromium, needs_chromium
from PIL import Image
from reported_runs import LOSS, METRIC, write_sweep
from tiny_run import ROOT, Program, rows, tiny

ROWS = ("--rows", "optim.lr", "--metric", METRIC)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """2 learning rates x 3 seeds, of which one was never begun."""

    def curves(lr: float, seed: int) -> dict[str, list[float]] | None:
        value = 0.5 + 10 * lr + 0.01 * seed * (seed + (lr == 4e-3))
        return None if (lr, seed) == (1e-3, 2) else {METRIC: [0.1, value], LOSS: [2.0, 1.0 - value]}

    write_sweep(tmp_path / "sweep", [1e-3, 4e-3], [1, 2, 3], curves)
    return tmp_path / "sweep"


def test_a_table_is_printed_and_says_over_how_many_runs_each_mean_is(program: Program, sweep: Path) -> None:
    done = program("report", sweep, *ROWS)
    assert (done.status, done.err) == (0, "")
    assert "| 1e-3     | 0.5600 ± 0.0566 (n=2 of 3) |" in done.out
    assert "| 4e-3     | **0.6067 ± 0.0503**" in done.out
    assert "optim.lr=1e-3,seed=2: waiting (not begun)" in done.out
    assert list(sweep.parent.iterdir()) == [sweep], "nothing is written where no --out says so"


def test_latex_and_csv_are_printed_and_what_is_missing_stays_out_of_csv(program: Program, sweep: Path) -> None:
    done = program("report", sweep, *ROWS, "--format", "latex", "--percent")
    assert r"4e-3 & $\mathbf{60.67} \pm 5.03$" in done.out
    assert "% not in the averages:" in done.out
    done = program("report", sweep, *ROWS, "--format", "csv")
    lines = list(csv.DictReader(io.StringIO(done.out)))
    assert [(line["optim.lr"], line["n"], line["asked"]) for line in lines] == [("1e-3", "2", "3"), ("4e-3", "3", "3")]
    assert "optim.lr=1e-3,seed=2: waiting" in done.err


def test_files_are_written_where_out_says(program: Program, sweep: Path) -> None:
    out = sweep.parent / "out"
    done = program("report", sweep, *ROWS, "--out", out, "--cols", "seed", "--over", "model.d_model")
    assert done.status == 0, done.err
    assert {path.name for path in out.iterdir()} >= {"table.md", "table.tex", "table.csv", "index.html"}
    assert done.out == (out / "table.md").read_text()
    assert done.err.count("wrote ") == len(list(out.iterdir()))
    assert Image.open(out / "curve_train_loss.png").format == "PNG"


def test_a_spec_gives_several_tables_and_figures_at_once(
    program: Program, sweep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(sweep.parent)
    Path("paper.yaml").write_text(
        "runs: sweep\n"
        f"tables:\n  main: {{rows: optim.lr, metric: {METRIC}}}\n  seeds: {{rows: seed, cols: optim.lr, metric: {LOSS},"
        " mode: min, over: model.d_model}\n"
        f"figures:\n  loss: {{metric: {LOSS}, lines: optim.lr}}\n"
    )
    done = program("report", "--spec", "paper.yaml", "--out", "paper")
    assert done.status == 0, done.err
    names = {"main", "seeds"}
    expected = {f"{name}{end}" for name in names for end in (".md", ".tex", ".csv")} | {"loss.svg", "loss.png"}
    assert {path.name for path in Path("paper").iterdir()} == expected | {"index.html"}
    assert program("report", "--spec", "paper.yaml", "--rows", "seed").err.startswith("error: --rows beside --spec")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--metric", METRIC), "report needs --rows"),
        (("--rows", "optim.lr"), "report needs --metric"),
        (("--rows", "optim.lrr", "--metric", METRIC), "did you mean 'optim.lr'?"),
        (("--rows", "optim.lr", "--metric", "eval/val/acuracy"), f"did you mean '{METRIC}'?"),
        ((*ROWS, "--mode", "maxx"), "did you mean 'max'?"),
        ((*ROWS, "--test", "paird-t"), "did you mean 'paired-t'?"),
        ((*ROWS, "--at", "bset"), "did you mean 'best'?"),
        ((*ROWS, "--baseline", "5"), "there is no value '5'"),
        ((*ROWS, "--where", "optim.lr"), "'optim.lr' is no condition"),
        (("--rows", "model.d_model", "--metric", METRIC), "differ in more than seed"),
    ],
)
def test_a_mistake_is_told_with_its_mend(
    program: Program, sweep: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = program("report", sweep, *arguments)
    assert (done.status, done.out) == (1, "")
    assert message in done.err and "mend:" in done.err


def test_a_sweep_that_goes_on_is_reported_as_far_as_it_is(program: Program, tmp_path: Path) -> None:
    write_sweep(tmp_path / "sweep", [1e-3, 4e-3], [1, 2], lambda lr, seed: None if lr == 4e-3 else {METRIC: [0.5]})
    done = program("report", tmp_path / "sweep", *ROWS)
    assert done.status == 0
    assert "| 4e-3     | – (n=0 of 2)" in done.out


@pytest.mark.slow
@needs_chromium
def test_a_real_sweep_becomes_a_table_that_compiles_and_a_page_that_renders(
    program: Program, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    short = ["budget.samples=192", "trainer.eval_every_n_steps=6", "callback.retrievals.images=4"]
    overrides = [line for line in tiny(shapes, Path("x"), *short) if not line.startswith(("run.dir", "optim.lr"))]
    plan = ["sweep", *overrides, "optim.lr=1e-3,4e-3", "seed=1,2,3", "--name", "lr"]
    done = program(*plan)
    assert done.status == 0, done.err
    for index in range(5):
        assert program("sweep", "run", "sweeps/lr", index).status == 0
    metric = "eval/new_style/top5"
    arguments = ("--rows", "optim.lr", "--metric", f"{metric},eval/new_style/loss", "--mode", "max,min")
    done = program("report", "sweeps/lr", *arguments, "--out", "report")
    assert done.status == 0, done.err
    assert "optim.lr=4e-3,seed=3: waiting (not begun)" in done.out

    lines = list(csv.DictReader(io.StringIO(Path("report/table.csv").read_text())))
    for lr in ("1e-3", "4e-3"):
        runs = sorted(Path("sweeps/lr/runs").glob(f"optim.lr={lr},seed=*"))
        values = [[row[metric] for row in rows(run) if metric in row][-1] for run in runs]
        line = next(line for line in lines if line["optim.lr"] == lr and line["metric"] == metric)
        assert int(line["n"]) == len(values) == (3 if lr == "1e-3" else 2)
        assert float(line["mean"]) == pytest.approx(statistics.mean(values), abs=1e-12)
        assert float(line["std"]) == pytest.approx(statistics.stdev(values), abs=1e-12)

    page = Path("report/index.html")
    dom = chromium(page.resolve().as_uri(), "--dump-dom").stdout
    assert "Not in the averages" in dom and dom.count("<img") == 5 * 2
    picture = tmp_path / "page.png"
    chromium(page.resolve().as_uri(), f"--screenshot={picture}", "--window-size=1200,2000")
    assert len(set(Image.open(picture).convert("RGB").getdata())) > 100, "it is not blank"

    if shutil.which("pdflatex"):
        document = r"\documentclass{article}\usepackage{booktabs,graphicx}\begin{document}\input{table}\end{document}"
        Path("report/paper.tex").write_text(document)
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
        made = subprocess.run(command, cwd="report", capture_output=True, text=True, errors="replace", timeout=120)
        assert made.returncode == 0, made.stdout[-2000:]
    assert json.loads(Path("sweeps/lr/plan.jsonl").read_text().splitlines()[5])["name"] == "optim.lr=4e-3,seed=3"


def test_the_commands_of_the_documentation_run(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "report.md").read_text()
    names = ("eval/new_style/top1", "eval/new_style/loss")

    def curves(lr: float, seed: int) -> dict[str, list[float]]:
        return {name: [0.1, 0.2 + lr * seed**2] for name in names} | {LOSS: [2.0, 1.0 + lr * seed]}

    write_sweep(Path("sweeps/clip_emoji"), [1e-3, 3e-3], [1, 2, 3], curves)
    Path("paper.yaml").write_text(text.split("<!-- paper.yaml -->\n```yaml\n")[1].partition("```")[0])
    blocks = [part.partition("```")[0] for part in text.split("<!-- tested as written -->\n```bash\n")[1:]]
    commands = [line for block in blocks for line in block.splitlines()]
    assert len(commands) == 4
    for command in commands:
        assert command.startswith("python -m mmtrain report")
        done = program(*shlex.split(command)[3:])
        assert done.status == 0, done.err
    assert {"table.md", "table.tex", "table.csv", "curve_train_loss.svg"} <= {
        path.name for path in Path("report").iterdir()
    }
    assert {"main.tex", "by_seed.tex", "loss.svg", "index.html"} <= {path.name for path in Path("paper").iterdir()}
