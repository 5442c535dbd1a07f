"""The page: whole in itself, safe against what runs may be called, light and dark."""

from __future__ import annotations

import base64
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from browser import chromium, needs_chromium
from PIL import Image
from reported_runs import LOSS, METRIC, config_of, write_picture, write_reported

from mmtrain.logger.jsonl import JsonlLogger
from mmtrain.run.report.paper import paper_of
from mmtrain.run.report.question import Question
from mmtrain.run.report.write import Report

EVIL = '<script>document.title="broken"</script>"&'
VOID = {"meta", "img", "br"}


class Outline(HTMLParser):
    """Every element opened and closed in its order, and every place that something could be fetched from."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "data", "action"):
                self.links.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on 2 learning rates of 2 seeds, one of which failed, with pictures, a table of texts and a bad name."""
    root = tmp_path_factory.mktemp("runs")
    for number in range(4):
        seed, lr = 1 + number % 2, [1e-3, 4e-3][number // 2]
        name = f"run{number}"
        config = config_of(name, seed, lr, model__name=EVIL)
        reason = f"failed: {EVIL}" if number == 3 else "finished"
        run = write_reported(root / name, config, {METRIC: [0.1, 0.2 + number], LOSS: [2.0, 1.0]}, reason=reason)
        write_picture(run, "pictures/val", 1, (0, 0, 0))
        write_picture(run, "pictures/val", 2)
        JsonlLogger(run).log_table("pictures/val/table", ["a"], [["beside its picture"]], 2)
        JsonlLogger(run).log_table("samples", ["prompt", "text"], [["Once", f"upon a time {EVIL}"]], 2)
    folder = tmp_path_factory.mktemp("out")
    question = Question(rows=("optim.lr", "model.name"), metrics=(METRIC,))
    Report(paper_of((root,), question)).write(folder, 20, lambda path: None)
    return folder


@pytest.fixture(scope="module")
def page(out: Path) -> str:
    return (out / "index.html").read_text()


def test_a_report_writes_every_format(out: Path) -> None:
    figures = ["curve_eval_val_accuracy", "curve_train_loss"]
    names = {f"table{end}" for end in (".md", ".tex", ".csv")} | {f"{n}{e}" for n in figures for e in (".svg", ".png")}
    assert {path.name for path in out.iterdir()} == names | {"index.html"}


def test_the_page_is_well_formed_and_fetches_nothing(page: str) -> None:
    outline = Outline()
    outline.feed(page)
    assert outline.open == []
    assert all(link.startswith(("#", "data:image/")) for link in outline.links), outline.links
    assert "script" not in outline.tags and "link" not in outline.tags and "iframe" not in outline.tags
    assert not re.search(r"url\((?!#)|@import|http-equiv=\"refresh", page)
    assert len(outline.ids) == len(set(outline.ids)), "no id is there twice"
    assert "Content-Security-Policy\" content=\"default-src 'none'" in page


def test_what_runs_are_called_is_shown_and_not_run(page: str) -> None:
    assert "<script" not in page
    assert page.count("&lt;script&gt;document.title=&quot;broken&quot;&lt;/script&gt;&quot;&amp;") >= 5


def test_the_newest_picture_of_each_run_is_in_the_page_and_a_table_that_has_none(page: str) -> None:
    pictures = [base64.b64decode(data) for data in re.findall(r"data:image/png;base64,([^\"]+)", page)]
    assert len(pictures) == 4
    assert all(data.startswith(b"\x89PNG") for data in pictures)
    assert page.count("pictures/val, step 2") == 4 and "pictures/val, step 1" not in page
    assert "beside its picture" not in page
    assert page.count("upon a time") == 4


def test_what_differs_and_what_is_missing_is_told(page: str) -> None:
    assert re.search(r"Not in the averages.*run3: failed \(&lt;script", page)
    assert "<th>optim.lr</th>" in page and "<th>seed</th>" in page
    assert "The same in all runs: code, packages, machine, data." in page
    assert "4 runs: 3 done, 1 failed" in page


def test_pictures_beyond_the_limit_are_counted_and_every_setting_comes_before_a_second_seed(
    tmp_path: Path,
) -> None:
    for seed in (1, 2):
        for lr in (1e-3, 4e-3):
            run = write_reported(tmp_path / f"{lr}-{seed}", config_of("x", seed, lr), {METRIC: [0.5], LOSS: [1.0]})
            write_picture(run, "p", 1)
    Report(paper_of((tmp_path,), Question(("optim.lr",), (METRIC,)))).write(tmp_path / "out", 2, lambda path: None)
    page = (tmp_path / "out" / "index.html").read_text()
    assert [name.split("/")[-1] for name in re.findall(r"<figcaption>([^<]*): p, step 1", page)] == [
        "0.001-1",
        "0.004-1",
    ]
    assert "2 more are in media/" in page


@needs_chromium
@pytest.mark.parametrize(("scheme", "dark"), [(0, True), (1, False)])
def test_a_browser_shows_it_light_and_dark(out: Path, tmp_path: Path, scheme: int, dark: bool) -> None:
    picture = tmp_path / "page.png"
    url = (out / "index.html").as_uri()
    chromium(url, f"--screenshot={picture}", f"--blink-settings=preferredColorScheme={scheme}", "--window-size=900,900")
    image = Image.open(picture).convert("RGB")
    paper, inks = image.getpixel((2, 2)), {colour for _, colour in image.getcolors(1 << 20)}  # type: ignore[union-attr, misc]
    assert (sum(paper) < 100) == dark, paper  # type: ignore[arg-type]
    extreme = max(inks, key=sum) if dark else min(inks, key=sum)
    assert (sum(extreme) > 600) == dark, "the ink is the paper's opposite"
    assert (0x2F, 0x7F, 0xD6) in inks, "the first curve is drawn in its colour"


@needs_chromium
def test_a_browser_runs_nothing_of_it_and_reports_no_error(out: Path) -> None:
    done = chromium((out / "index.html").as_uri(), "--dump-dom", "--enable-logging=stderr", "--v=0")
    assert "<title>broken" not in done.stdout
    assert "Curves" in done.stdout
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line], done.stderr
    assert isinstance(done, subprocess.CompletedProcess)
