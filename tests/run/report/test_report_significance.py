"""Tests of significance: equal to references, by seed, and silent where nothing can be said."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from scipy import stats

from mmtrain.errors import RunError
from mmtrain.run.report.significance import compare_by_seed

A = {str(seed): value for seed, value in enumerate([0.71, 0.74, 0.69, 0.77, 0.73])}
B = {str(seed): value for seed, value in enumerate([0.68, 0.70, 0.69, 0.71, 0.70])}


def test_the_paired_t_test_is_scipys_of_two_samples() -> None:
    found = compare_by_seed(A, B, "paired-t")
    expected = stats.ttest_rel(list(A.values()), list(B.values()))
    low, high = expected.confidence_interval(0.95)
    assert (found.p, found.low, found.high) == (expected.pvalue, low, high)
    assert (found.pairs, found.significant) == (5, expected.pvalue < 0.05)
    assert found.difference == pytest.approx(0.032)


def test_pairs_are_of_the_same_seed_whatever_the_order_and_the_number() -> None:
    shuffled = {seed: B[seed] for seed in reversed(B)} | {"99": 5.0}
    found, expected = compare_by_seed(A, shuffled, "paired-t"), compare_by_seed(A, B, "paired-t")
    assert (found.pairs, found.p) == (5, expected.p)


def test_a_difference_that_swings_with_the_seeds_is_not_called_significant() -> None:
    swinging = {"0": 0.9, "1": 0.5, "2": 0.8, "3": 0.6, "4": 0.75}
    for test in ("paired-t", "bootstrap"):
        assert compare_by_seed(swinging, B, test).significant is False  # type: ignore[arg-type]


def test_the_bootstrap_is_the_percentile_interval_and_the_same_every_time() -> None:
    found = compare_by_seed(A, B, "bootstrap")
    differences = np.array(list(A.values())) - np.array(list(B.values()))
    reference = stats.bootstrap((differences,), np.mean, n_resamples=100_000, method="percentile", random_state=1)
    assert (found.low, found.high) == pytest.approx(tuple(reference.confidence_interval), abs=1e-3)
    assert found == compare_by_seed(A, B, "bootstrap")
    assert found.significant is True and found.p is None


@pytest.mark.parametrize("test", ["paired-t", "bootstrap"])
@pytest.mark.parametrize(
    ("a", "b", "reason"),
    [
        ({"1": 0.5}, {"1": 0.4}, "1 common seed: a test needs 2"),
        ({"1": 0.5, "2": 0.5}, {"3": 0.4, "4": 0.4}, "0 common seeds: a test needs 2"),
        ({"1": 0.5, "2": 0.6}, {"1": 0.4, "2": 0.5}, "the difference is the same in all pairs"),
        ({"1": 0.5, "2": math.nan}, {"1": 0.4, "2": 0.1}, "a value is not finite"),
    ],
)
def test_where_nothing_can_be_tested_nothing_is_claimed(
    a: dict[str, float], b: dict[str, float], reason: str, test: str
) -> None:
    found = compare_by_seed(a, b, test)  # type: ignore[arg-type]
    assert (found.p, found.low, found.significant) == (None, None, None)
    assert found.reason.startswith(reason)


def test_without_scipy_the_mend_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(RunError, match=r"(?s)needs the package scipy.*mmtrain\[report\].*--test bootstrap"):
        compare_by_seed(A, B, "paired-t")
    assert compare_by_seed(A, B, "bootstrap").significant
