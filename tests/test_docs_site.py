"""The site of the documentation builds without a warning, and its reference is that of the code."""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_run import ROOT, Program

from mmtrain.config import Root, compose, config_dir
from mmtrain.config.schema import PROVIDED
from mmtrain.data.image_text import ImageText

PAGES = [*(ROOT / "docs").glob("*.md"), *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "slurm/README.md"))]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", ROOT / "mkdocs.yml"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        [*command, "--site-dir", target], env=environment, cwd=target, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return target


def text_of(page: Path) -> str:
    return html.unescape(re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8")))


def test_every_page_is_in_the_navigation(site: Path) -> None:
    """A page that is not is a warning, and so is a link or an anchor that leads nowhere."""
    names = {page.stem for page in (ROOT / "docs").glob("*.md")} - {"index"}
    assert {*names, "commands", "groups"} <= {path.parent.name for path in site.glob("*/index.html")}
    assert not list(site.rglob("*.py")), "what builds the site is no part of it"


def test_the_reference_has_every_command_with_all_its_options(site: Path, program: Program) -> None:
    page = site / "commands" / "index.html"
    known = program("nonsense").err.partition("known: ")[2].split(",")
    assert len(known) > 10
    for verb in known:
        assert f'id="{verb.strip()}"' in page.read_text(), verb
    text = text_of(page)
    for command, option in [
        ("sweep", "--search-seed N"),
        ("sweep status", "SWEEP_DIR"),
        ("data pack images", "--caption-column"),
        ("report", "--spec"),
        ("reproduce", "--tolerance"),
        ("generate", "--temperature T"),
    ]:
        assert f"usage: python -m mmtrain {command} " in text
        assert option in text
    assert "with no other word of its config" in text, "what has no options is told by its code"
    assert "\x1b" not in text and "<module" not in text


def test_the_reference_has_every_option_of_every_group_and_every_key(site: Path) -> None:
    text = text_of(site / "groups" / "index.html")
    for path in config_dir().glob("*/*.yaml"):
        assert f"{path.parent.name}={path.stem}" in text
    assert set(PROVIDED) < Root.__annotations__.keys()
    keys = compose(["experiment=clip_emoji"]).provenance
    missing = {key.rpartition(".")[2] for key in keys if "_target_" not in key and not key[-1].isdigit()}
    missing -= set(re.findall(r"\w+", text))
    assert not missing
    said = " ".join((ImageText.__doc__ or "").split())
    shown = " ".join(text.split())
    assert "Share of the samples that each of several data sets gives, up to a common factor" in said
    assert "Share of the samples that each of several data sets gives, up to a common factor" in shown


def test_the_pages_load_no_script_style_or_font_of_another_host(site: Path) -> None:
    for page in site.rglob("*.html"):
        loaded = re.findall(
            r"<(?:script|img|iframe)[^>]* src=\"(https?:[^\"]+)|<link[^>]* href=\"(https?:[^\"]+)\"", page.read_text()
        )
        assert all("mmtrain.github.io" in "".join(url) for url in loaded), (page, loaded)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_files_of_the_repository_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text(encoding="utf-8")):
        generated = page.parent.name == "docs" and target in ("commands.md", "groups.md")
        assert generated or (page.parent / target).exists(), f"{page.name} links {target}"
