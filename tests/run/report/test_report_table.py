"""Tables: means over seeds of the runs that are done, and a word on each that is not."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from reported_runs import LOSS, METRIC, config_of, write_reported, write_sweep

from mmtrain.errors import ConfigError, RunError
from mmtrain.run.report.cases import find_cases
from mmtrain.run.report.question import Question
from mmtrain.run.report.table import Cell, Column, Table, build_table

BY_LR = Question(rows=("optim.lr",), metrics=(METRIC,), test="none")
VALUES = {(1e-3, 1): 0.5, (1e-3, 2): 0.7, (1e-3, 3): 0.6, (4e-3, 1): 0.8, (4e-3, 2): 0.9, (4e-3, 3): 0.7}


def curves(value: float) -> dict[str, list[float]]:
    return {METRIC: [0.0, value], LOSS: [3.0, 1.0 - value]}


def sweep(path: Path, without: Sequence[tuple[float, int]] = ()) -> None:
    write_sweep(
        path, [1e-3, 4e-3], [1, 2, 3], lambda lr, seed: None if (lr, seed) in without else curves(VALUES[lr, seed])
    )


def ask(path: Path, question: Question = BY_LR) -> Table:
    return build_table(find_cases([path]), question)


def cell(table: Table, *row: str, col: str | None = None, metric: str = METRIC) -> Cell:
    return table.cells[row, Column(col, metric)]


def run(path: Path, seed: int, lr: float, value: float, /, **more: Any) -> None:
    name = f"lr={lr},seed={seed}" + "".join(f",{key}={value}" for key, value in more.items())
    write_reported(path / name, config_of(name, seed, lr, **more), curves(value))


def test_a_cell_is_mean_and_sample_deviation_over_seeds(tmp_path: Path) -> None:
    sweep(tmp_path)
    table = ask(tmp_path)
    assert table.rows == (("1e-3",), ("4e-3",))
    for lr, label in ((1e-3, "1e-3"), (4e-3, "4e-3")):
        values = [value for (of, _), value in VALUES.items() if of == lr]
        found = cell(table, label)
        assert (found.n, found.asked) == (3, 3)
        assert found.mean == pytest.approx(statistics.mean(values), abs=1e-15)
        assert found.std == pytest.approx(statistics.stdev(values), abs=1e-15)
    assert (cell(table, "1e-3").best, cell(table, "4e-3").best) == (False, True)
    assert table.left_out == ()


def test_the_best_is_the_smallest_of_a_metric_that_is_to_be_small(tmp_path: Path) -> None:
    sweep(tmp_path)
    table = ask(tmp_path, replace(BY_LR, metrics=(LOSS, METRIC), mode=("min", "max")))
    assert [cell(table, lr, metric=LOSS).best for lr in ("1e-3", "4e-3")] == [False, True]
    table = ask(tmp_path, replace(BY_LR, metrics=(LOSS,), mode=("max",)))
    assert [cell(table, lr, metric=LOSS).best for lr in ("1e-3", "4e-3")] == [True, False]


def test_what_is_better_is_not_guessed_from_a_name(tmp_path: Path) -> None:
    sweep(tmp_path)
    with pytest.raises(ConfigError, match="larger or a smaller train/loss is better"):
        ask(tmp_path, replace(BY_LR, metrics=(LOSS,)))
    with pytest.raises(ConfigError, match="1 metrics and 2 modes"):
        ask(tmp_path, replace(BY_LR, mode=("max", "min")))


def test_a_run_that_was_never_begun_leaves_its_cell_with_fewer_which_says_so_and_cannot_win(tmp_path: Path) -> None:
    sweep(tmp_path, without=[(4e-3, 1)])
    table = ask(tmp_path)
    short = cell(table, "4e-3")
    assert (short.n, short.asked) == (2, 3)
    assert short.mean > cell(table, "1e-3").mean
    assert not short.best and cell(table, "1e-3").best
    assert [line.split("/")[-1] for line in table.left_out] == ["optim.lr=4e-3,seed=1: waiting (not begun)"]


@pytest.mark.parametrize(
    ("reason", "told"), [("failed: no space", "failed (no space)"), (None, "killed (step 2 of 4)")]
)
def test_what_a_run_that_is_not_done_has_recorded_does_not_count(tmp_path: Path, reason: str | None, told: str) -> None:
    for seed in (1, 2):
        run(tmp_path, seed, 1e-3, 0.5)
    write_reported(tmp_path / "third", config_of("third", 3, 1e-3), curves(1.0), reason=reason)
    table = ask(tmp_path)
    assert (cell(table, "1e-3").mean, cell(table, "1e-3").n, cell(table, "1e-3").asked) == (0.5, 2, 3)
    assert table.left_out == (f"{tmp_path}/third: {told}",)


def test_a_metric_that_a_run_lacks_is_told_and_one_that_all_lack_is_refused(tmp_path: Path) -> None:
    run(tmp_path, 1, 1e-3, 0.5)
    write_reported(tmp_path / "second", config_of("second", 2, 1e-3), {LOSS: [1.0]})
    table = ask(tmp_path)
    assert (cell(table, "1e-3").n, cell(table, "1e-3").asked) == (1, 2)
    assert table.left_out == (f"{tmp_path}/second: no {METRIC}: it never recorded it",)
    with pytest.raises(ConfigError, match=r"(?s)no run recorded.*did you mean 'eval/val/accuracy'"):
        ask(tmp_path, replace(BY_LR, metrics=("eval/val/acuracy",), mode=("max",)))


def test_the_value_is_of_the_last_evaluation_or_of_the_best(tmp_path: Path) -> None:
    falling = {METRIC: [0.9, 0.4], "eval/val/other": [5.0, 6.0]}
    best = (1, {METRIC: 0.9, "eval/val/other": 5.0})
    write_reported(tmp_path / "a", config_of("a", 1, 1e-3), falling, best=best)
    write_reported(tmp_path / "b", config_of("b", 2, 1e-3), falling)
    assert cell(ask(tmp_path), "1e-3").values == {"1": 0.4, "2": 0.4}
    other = replace(BY_LR, metrics=("eval/val/other",), mode=("max",), at="best")
    table = ask(tmp_path, other)
    assert cell(table, "1e-3", metric="eval/val/other").values == {"1": 5.0}
    assert table.left_out == (f"{tmp_path}/b: no eval/val/other: it has no best evaluation with it",)


def test_runs_of_a_cell_that_differ_in_more_than_the_seed_are_not_averaged(tmp_path: Path) -> None:
    run(tmp_path, 1, 1e-3, 0.5)
    run(tmp_path, 2, 1e-3, 0.9, data__mix=0.1)
    with pytest.raises(RunError, match=r"(?s)differ in more than seed.*data.mix: 0.5 .* 0.1 .*add data.mix to --rows"):
        ask(tmp_path)
    table = ask(tmp_path, replace(BY_LR, cols="data.mix"))
    assert {column.col for column in table.columns} == {"0.1", "0.5"}
    assert cell(ask(tmp_path, replace(BY_LR, where={"data.mix": "0.10"})), "1e-3").values == {"2": 0.9}
    assert cell(ask(tmp_path, replace(BY_LR, over=("seed", "data.mix"))), "1e-3").n == 2


def test_where_a_run_lies_and_what_it_writes_does_not_keep_it_out_of_its_cell(tmp_path: Path) -> None:
    run(tmp_path, 1, 1e-3, 0.5)
    run(tmp_path, 2, 1e-3, 0.7, data__root="/elsewhere", logger__wandb=None)
    assert cell(ask(tmp_path), "1e-3").n == 2


def test_two_runs_of_one_seed_are_refused(tmp_path: Path) -> None:
    write_reported(tmp_path / "run", config_of("run", 1, 1e-3), curves(0.5))
    write_reported(tmp_path / "run.1", config_of("run", 1, 1e-3), curves(0.5))
    with pytest.raises(RunError, match=r"2 runs of seed=1: .*run, .*run\.1"):
        ask(tmp_path)


def test_a_value_that_is_not_finite_stays_in_the_mean_and_never_is_the_best(tmp_path: Path) -> None:
    for seed, value in ((1, 0.9), (2, math.nan)):
        run(tmp_path, seed, 4e-3, value)
    for seed in (1, 2):
        run(tmp_path, seed, 1e-3, 0.1)
    table = ask(tmp_path)
    assert math.isnan(cell(table, "4e-3").mean)
    assert cell(table, "1e-3").best and not cell(table, "4e-3").best
    assert table.notes == (f"4e-3: {METRIC} is not finite with seed 2",)


def test_a_combination_that_nobody_asked_for_is_told_and_not_counted_as_missing(tmp_path: Path) -> None:
    for mix, lr in ((0.1, 1e-3), (0.1, 4e-3), (0.2, 1e-3)):
        run(tmp_path, 1, lr, 0.5, data__mix=mix)
    table = ask(tmp_path, replace(BY_LR, cols="data.mix"))
    assert (("4e-3",), Column("0.2", METRIC)) not in table.cells
    assert table.notes == ("no run was asked for: 4e-3 with data.mix 0.2",)


def test_rows_stand_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for lr in (1e-1, 1e-4, 2e-3):
        for width in (8, 128):
            run(tmp_path, 1, lr, 0.5, model__d_model=width)
    table = ask(tmp_path, replace(BY_LR, rows=("model.d_model", "optim.lr")))
    expected = [(width, lr) for width in ("8", "128") for lr in ("1e-4", "2e-3", "0.1")]
    assert list(table.rows) == expected


def test_a_baseline_is_named_as_its_value_is_written_anywhere(tmp_path: Path) -> None:
    sweep(tmp_path)
    for text in ("0.004", "4e-3", "4.0e-03"):
        table = ask(tmp_path, replace(BY_LR, baseline=text))
        assert table.baseline == ("4e-3",)
        found = cell(table, "1e-3").comparison
        assert found is not None and found.difference == pytest.approx(-0.2)
        assert cell(table, "4e-3").comparison is None
    with pytest.raises(ConfigError, match="did you mean '4e-3'"):
        ask(tmp_path, replace(BY_LR, baseline="4e-4"))


def test_a_key_that_no_run_has_is_refused_with_the_nearest(tmp_path: Path) -> None:
    sweep(tmp_path)
    with pytest.raises(ConfigError, match=r"(?s)no run's config has the key 'optim.lrr'.*did you mean 'optim.lr'"):
        ask(tmp_path, replace(BY_LR, rows=("optim.lrr",)))
    with pytest.raises(ConfigError, match="there is no value '0.7'"):
        ask(tmp_path, replace(BY_LR, where={"optim.lr": "0.7"}))


def test_a_run_that_lacks_a_key_of_the_rows_is_told(tmp_path: Path) -> None:
    run(tmp_path, 1, 1e-3, 0.5)
    config: Mapping[str, Any] = {key: v for key, v in config_of("odd", 2, 1e-3).items() if key != "optim"}
    write_reported(tmp_path / "odd", config, curves(0.9))
    table = ask(tmp_path)
    assert cell(table, "1e-3").values == {"1": 0.5}
    assert table.left_out == (f"{tmp_path}/odd: its optim.lr is not known, so it belongs to no cell (done)",)


def test_what_many_runs_have_in_common_is_told_once(tmp_path: Path) -> None:
    for seed in range(5):
        write_reported(tmp_path / str(seed), config_of("x", seed, 1e-3), curves(0.5), manifest=False)
    (note,) = ask(tmp_path).notes
    named = ", ".join(str(tmp_path / str(seed)) for seed in range(3))
    assert note.startswith(f"{named} and 2 more runs: it has no manifest.json")


def test_runs_of_other_code_are_told(tmp_path: Path) -> None:
    for seed, source in ((1, "1" * 64), (2, "2" * 64)):
        write_reported(tmp_path / str(seed), config_of("x", seed, 1e-3), curves(0.5), source=source)
    assert ask(tmp_path).notes == ("the runs differ in code: sources of mmtrain",)
