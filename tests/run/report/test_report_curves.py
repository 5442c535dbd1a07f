"""Curves: mean and deviation step by step, over the runs that are done, and pictures of them."""

from __future__ import annotations

import io
import re
import statistics
import sys
import xml.etree.ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from reported_runs import LOSS, METRIC, config_of, write_reported

from mmtrain.errors import ConfigError, RunError
from mmtrain.run.report.cases import find_cases
from mmtrain.run.report.curves import Figure, FigureQuestion, build_figure
from mmtrain.run.report.plot import draw

BY_LR = FigureQuestion(LOSS, ("optim.lr",))
LOSSES = {1: [3.0, 2.0, 1.0], 2: [4.0, 2.5, 0.5], 3: [5.0, 3.5, 2.0]}


def runs(path: Path, lrs: tuple[float, ...] = (1e-3,)) -> None:
    for lr in lrs:
        for seed, losses in LOSSES.items():
            name = f"{lr}-{seed}"
            write_reported(path / name, config_of(name, seed, lr), {LOSS: losses, METRIC: [0.1, 0.2, 0.3]})


def ask(path: Path, question: FigureQuestion = BY_LR) -> Figure:
    return build_figure(find_cases([path]), question)


def test_a_curve_is_mean_and_sample_deviation_at_every_step(tmp_path: Path) -> None:
    runs(tmp_path)
    (curve,) = ask(tmp_path).curves
    columns = list(zip(*LOSSES.values(), strict=True))
    assert (curve.label, curve.n, curve.x.tolist()) == ("1e-3", 3, [1.0, 2.0, 3.0])
    np.testing.assert_allclose(curve.mean, [statistics.mean(column) for column in columns])
    np.testing.assert_allclose(curve.std, [statistics.stdev(column) for column in columns])


def test_a_run_that_is_not_done_is_drawn_alone_and_in_no_mean(tmp_path: Path) -> None:
    runs(tmp_path)
    write_reported(tmp_path / "4", config_of("4", 4, 1e-3), {LOSS: [90.0, 80.0]}, reason=None)
    figure = ask(tmp_path)
    (curve,) = figure.curves
    assert curve.n == 3 and curve.mean.max() < 10
    ((x, y),) = curve.unfinished
    assert (x.tolist(), y.tolist()) == ([1.0, 2.0], [90.0, 80.0])
    assert figure.notes == ("1e-3: mean of 3 of 4 runs; the others are not done, or lack the metric",)


def test_points_that_not_all_runs_have_are_left_out_and_told(tmp_path: Path) -> None:
    runs(tmp_path)
    write_reported(tmp_path / "4", config_of("4", 4, 1e-3), {LOSS: [3.0, 2.0]})
    figure = ask(tmp_path)
    assert figure.curves[0].x.tolist() == [1.0, 2.0]
    assert figure.notes == ("1e-3: 1 points that not all runs have are left out",)


def test_a_run_without_the_metric_is_told(tmp_path: Path) -> None:
    runs(tmp_path)
    write_reported(tmp_path / "4", config_of("4", 4, 1e-3), {METRIC: [0.5]})
    figure = ask(tmp_path)
    assert figure.curves[0].n == 3
    assert f"{tmp_path}/4: no {LOSS}: it is in no curve" in figure.notes


def test_the_axis_may_be_anything_that_stands_in_the_same_rows(tmp_path: Path) -> None:
    runs(tmp_path)
    assert ask(tmp_path, replace(BY_LR, x="samples")).curves[0].x.tolist() == [8.0, 16.0, 24.0]
    with pytest.raises(ConfigError, match="with epoch in one row"):
        ask(tmp_path, replace(BY_LR, x="epoch"))
    with pytest.raises(ConfigError, match=r"(?s)no run recorded.*did you mean 'train/loss'"):
        ask(tmp_path, replace(BY_LR, metric="train/los"))


def test_pictures_are_whole_and_the_same_every_time(tmp_path: Path) -> None:
    runs(tmp_path, lrs=tuple(10.0**-power for power in range(1, 9)))
    figure = ask(tmp_path)
    pictures = draw(figure, "loss")
    assert pictures == draw(figure, "loss")
    assert Image.open(io.BytesIO(pictures.png)).size == (1280, 720)
    for svg in (pictures.svg, pictures.inline):
        xml.etree.ElementTree.fromstring(svg)
    assert "currentColor" in pictures.inline and "var(--grid)" in pictures.inline
    assert "currentColor" not in pictures.svg
    assert "#24292f" not in pictures.inline, "ink of its own cannot be read on black"


def test_names_within_two_pictures_of_a_page_do_not_meet_and_are_all_found(tmp_path: Path) -> None:
    runs(tmp_path)
    figure = ask(tmp_path)
    names = []
    for name in ("a", "b"):
        svg = draw(figure, name).inline
        found = set(re.findall(r'\bid="([^"]*)"', svg))
        assert set(re.findall(r'(?:href="#|url\(#)([^")]*)', svg)) <= found
        names.append(found)
    assert names[0] and not names[0] & names[1]


def test_values_that_are_not_finite_are_drawn_as_gaps(tmp_path: Path) -> None:
    for seed in (1, 2):
        write_reported(tmp_path / str(seed), config_of("x", seed, 1e-3), {LOSS: [1.0, float("nan"), float("inf"), 2.0]})
    with np.errstate(all="raise", under="ignore"):
        assert draw(ask(tmp_path, replace(BY_LR, log_y=True)), "gaps").png


def test_without_matplotlib_the_mend_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(RunError, match=r"(?s)need the package matplotlib.*mmtrain\[report\]"):
        draw(ask(tmp_path), "x")
