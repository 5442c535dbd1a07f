"""Rows against recorded ones: the first difference is found, to the bit, and nothing is passed over."""

from __future__ import annotations

import math
from typing import Any

import pytest

from mmtrain.run.reproduce_rows import Deviation, RowComparison, by_step

ROWS: list[dict[str, Any]] = [
    {"step": 1, "train/loss": 3.0, "samples": 16.0},
    {"step": 1, "throughput/samples_per_second": 9.0},
    {"step": 2, "train/loss": 2.0, "samples": 32.0},
    {"step": 2, "eval/x/top1": 0.5, "samples": 32.0},
    {"step": 4, "train/loss": math.nan, "samples": 64.0},
]


def comparison(tolerance: float | None = None, *, open_end: bool = False) -> RowComparison:
    return RowComparison(by_step(ROWS), tolerance, open_end)


def fed(compared: RowComparison, rows: list[dict[str, Any]]) -> Deviation | None:
    return next((found for row in rows if (found := compared.take(row)) is not None), None)


def changed(number: int, **values: float) -> list[dict[str, Any]]:
    return [
        row | ({f"train/{key}": v for key, v in values.items()} if i == number else {}) for i, row in enumerate(ROWS)
    ]


def test_the_same_rows_are_the_same_whatever_the_clock_says() -> None:
    compared = comparison()
    rows = [row if "throughput/samples_per_second" not in row else {"step": 1, "throughput/x": 1.0} for row in ROWS]
    assert fed(compared, rows) is None
    assert compared.is_complete and compared.end() is None
    assert (compared.steps, compared.values) == (3, 7)


def test_steps_that_were_not_recorded_and_steps_after_the_last_are_passed() -> None:
    compared = comparison()
    extra = [{"step": step, "train/loss": 7.0} for step in (3, 5)]
    assert fed(compared, [*ROWS[:4], extra[0], ROWS[4], extra[1]]) is None
    assert compared.is_complete


@pytest.mark.parametrize("now", [math.nextafter(2.0, 3), math.nan, math.inf, 2.5])
def test_one_bit_is_a_difference_and_the_step_is_named(now: float) -> None:
    compared = comparison()
    found = fed(compared, changed(2, loss=now))
    assert found is not None and found.step == 2
    assert found.values.keys() == {"train/loss"} and found.values["train/loss"]["a"] == 2.0
    assert compared.steps == 1


def test_minus_zero_is_not_zero() -> None:
    assert RowComparison({1: {"a": 0.0}}, None, False).take({"step": 1, "a": -0.0}) == Deviation(
        1, {"a": {"a": 0.0, "b": -0.0}}
    )
    assert RowComparison({1: {"a": 0.0}}, 1e-9, False).take({"step": 1, "a": -0.0}) is None


def test_a_metric_that_came_anew_or_is_gone_is_a_difference() -> None:
    assert fed(comparison(), changed(0, other=1.0)) == Deviation(1, {"train/other": {"b": 1.0}})
    gone = [row for row in ROWS if "eval/x/top1" not in row]
    assert fed(comparison(), gone) == Deviation(2, {"eval/x/top1": {"a": 0.5}})


def test_a_step_that_is_passed_over_or_never_comes_is_a_difference() -> None:
    assert fed(comparison(), [ROWS[0], ROWS[4]]) == Deviation(
        2, {"train/loss": {"a": 2.0}, "samples": {"a": 32.0}, "eval/x/top1": {"a": 0.5}}
    )
    compared = comparison()
    assert fed(compared, ROWS[:4]) is None
    assert not compared.is_complete
    assert compared.end() is None and compared.steps == 2
    found = compared.end()
    assert found is not None and found.step == 4


def test_a_record_that_was_cut_within_its_last_step_is_compared_as_far_as_it_goes() -> None:
    more = [*ROWS, {"step": 4, "eval/x/top1": 0.75, "samples": 64.0}]
    assert fed(comparison(open_end=True), [*more[:-2], more[-2] | {"eval/y": 1.0}]) is None
    late = [*ROWS[:4], {"step": 4, "eval/x/top1": 0.75}, ROWS[4]]
    assert fed(comparison(open_end=True), late) is None
    assert fed(comparison(), late) == Deviation(4, {"eval/x/top1": {"b": 0.75}})


def test_a_tolerance_is_a_share_of_large_values_and_absolute_for_small_ones() -> None:
    compared = comparison(0.01)
    assert fed(compared, changed(0, loss=3.029)) is None
    assert compared.largest == pytest.approx(0.029 / 3)
    assert fed(comparison(0.01), changed(0, loss=3.031)) is not None
    small = RowComparison({1: {"a": 0.001}}, 0.01, False)
    assert small.take({"step": 1, "a": 0.0105}) is None
    for now in (math.nan, math.inf):
        assert fed(comparison(0.9), changed(0, loss=now)) is not None
