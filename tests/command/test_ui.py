"""``ui``: runs in a real browser, from their files alone, while they go on."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import chromium, needs_chromium
from PIL import Image
from reported_runs import LOSS, METRIC, config_of, write_picture, write_reported
from tiny_run import ROOT, Program, kill_group

BLUE = (0, 0, 250)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("home") / "runs"
    for seed, lr in ((1, 1e-3), (2, 1e-3), (1, 4e-3)):
        run = root / f"lr={lr},seed={seed}"
        write_reported(run, config_of(run.name, seed, lr), {LOSS: [2.0, 1.0, 0.5], METRIC: [0.2, 0.4, 0.3]})
        write_picture(run, "retrievals/val", 3, BLUE)
    return root


@pytest.fixture(scope="module")
def served(runs: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The address, and the program."""
    home = runs.parent
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TMPDIR": str(home)}
    command = [sys.executable, "-m", "mmtrain", "ui", "runs", "--port", "0"]
    log = home / "said.log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, cwd=home, env=environment, stdout=file, stderr=file, start_new_session=True)
    try:
        said = until(lambda: re.search(r"http://127\.0\.0\.1:\d+/", log.read_text()), process, log)
        yield said[0], process
    finally:
        if process.poll() is None:
            kill_group(process)


def until(found: Callable[[], Any], process: subprocess.Popen[bytes], log: Path) -> Any:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if (result := found()) is not None:
            return result
        time.sleep(0.1)
    raise AssertionError(log.read_text(errors="replace")[-4000:])


def get(url: str | urllib.request.Request) -> Any:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)


def curve(url: str, run: str) -> dict[int, float] | None:
    try:
        return {step: value for _, step, value in get(f"{url}data/plugin/scalars/scalars?tag={LOSS}&run={run}")}
    except urllib.error.HTTPError:
        return None  # not read yet


def test_what_is_served_is_the_record_and_follows_it_while_runs_go_on(
    served: tuple[str, subprocess.Popen[bytes]], runs: Path
) -> None:
    url, process = served
    log, run = runs.parent / "said.log", "lr=0.004,seed=1"
    until(lambda: curve(url, run) == {1: 2.0, 2: 1.0, 3: 0.5} or None, process, log)
    assert sorted(get(f"{url}data/runs")) == sorted(path.name for path in runs.iterdir())
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*") if path.name != "metrics.jsonl"}
    with (runs / run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 4, LOSS: 0.25}) + "\n")
    until(lambda: (curve(url, run) or {}).get(4) == 0.25 or None, process, log)
    assert {path: path.stat().st_mtime_ns for path in before} == before, "nothing is written into a run"
    assert {path.name for path in runs.rglob("*tfevents*")} == set()


def opened(url: str, *options: str, shows: Callable[[str], bool]) -> str:
    """The page as a browser has it once it shows what it should: how far it is when the time is up is chance."""
    for _ in range(8):
        # Cards out of sight are not drawn. The names of runs are cut where a line may break.
        look = ("--dump-dom", "--virtual-time-budget=30000", "--window-size=1400,4000", *options)
        page = chromium(url, *look).stdout.replace("<wbr>", "")
        if shows(page):
            break
    return page


def texts(page: str) -> list[str]:
    return [text.strip() for text in re.sub(r"<!--.*?-->|<[^>]*>", "\n", page).splitlines() if text.strip()]


@pytest.mark.slow
@needs_chromium
def test_a_browser_shows_runs_curves_and_pictures_without_a_network(
    served: tuple[str, subprocess.Popen[bytes]], runs: Path, tmp_path: Path
) -> None:
    url, process = served
    names = [path.name for path in runs.iterdir()]
    for name in names:
        until(lambda name=name: curve(url, name), process, runs.parent / "said.log")  # type: ignore[misc]

    def values(page: str) -> dict[str, set[str]]:
        found = texts(page)
        return {name: {after for text, after in itertools.pairwise(found) if text == name} for name in names}

    def has_curves(page: str) -> bool:
        return all("accuracy" in page and "0.3" in found for found in values(page).values())

    page = opened(f"{url}?tagFilter=accuracy&smoothing=0#timeseries", shows=has_curves)
    assert has_curves(page), f"the last accuracy of each run stands below its curve: {values(page)}"
    picture = tmp_path / "ui.png"

    def has_picture() -> bool:
        chromium(f"{url}#images", f"--screenshot={picture}", "--virtual-time-budget=30000", "--window-size=1400,2000")
        colours = Image.open(picture).convert("RGB").getcolors(1 << 22)
        return any(colour == BLUE for _, colour in colours or ())

    assert any(has_picture() for _ in range(8)), "the runs' pictures are shown"


def test_the_table_of_hyperparameters_has_what_tells_the_runs_apart(
    served: tuple[str, subprocess.Popen[bytes]], runs: Path
) -> None:
    url, process = served
    asked = json.dumps({"experimentName": "", "allowedStatuses": ["STATUS_UNKNOWN"], "sliceSize": 100}).encode()

    def settings() -> list[dict[str, float]] | None:
        request = urllib.request.Request(f"{url}data/plugin/hparams/session_groups", data=asked, method="POST")
        request.add_header("Content-Type", "application/json")
        found = [group["hparams"] for group in get(request).get("sessionGroups", [])]
        return found if len(found) == 3 else None

    found = until(settings, process, runs.parent / "said.log")
    assert sorted((one["optim.lr"], one["seed"]) for one in found) == [(0.001, 1), (0.001, 2), (0.004, 1)]
    assert all(one.keys() == {"optim.lr", "seed"} for one in found)


def test_a_port_that_is_taken_is_told(program: Program, runs: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = program("ui", runs, "--port", taken.getsockname()[1])
    assert done.status == 1
    assert "already in use" in done.err and "mend:  choose another --port" in done.err


def test_a_directory_that_is_not_there_is_told(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "no such directory" in program("ui", tmp_path / "missing").err
    monkeypatch.chdir(tmp_path)
    assert "neither runs/ nor sweeps/" in program("ui").err


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_when_asked_to_and_leaves_nothing(runs: Path, tmp_path: Path, sent: signal.Signals) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "mmtrain", "ui", str(runs), "--port", "0"]
    log = tmp_path / "said.log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)
    try:
        until(lambda: re.search("http://", log.read_text()), process, log)
        process.send_signal(sent)
        assert process.wait(timeout=60) == 0
    finally:
        if process.poll() is None:
            kill_group(process)
    assert not list(tmp_path.glob("mmtrain-ui-*"))
    assert "Traceback" not in log.read_text()
