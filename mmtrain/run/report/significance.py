"""Whether two settings differ by more than their seeds do: tests on runs of the same seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mmtrain.errors import RunError

Test = Literal["paired-t", "bootstrap", "none"]

LEVEL = 0.05
_RESAMPLES = 10_000
_SEED = 0


@dataclass(frozen=True)
class Comparison:
    """A setting beside the one that it is compared with.

    Attributes:
        pairs: Seeds that both have.
        difference: Mean over them of the value less the other's; None without a pair.
        p: Two-sided, of the paired t-test; None of the bootstrap, and where there was no test.
        low: Lower end of the 95% interval of the difference; None where there was no test.
        high: Upper end.
        significant: Whether they differ; None where there was no test.
        reason: Why there was no test; empty where there was.
    """

    pairs: int
    difference: float | None = None
    p: float | None = None
    low: float | None = None
    high: float | None = None
    significant: bool | None = None
    reason: str = ""


def compare_by_seed(a: Mapping[str, float], b: Mapping[str, float], test: Test) -> Comparison:
    """Compares values by seed.

    Args:
        a: Values of a setting, by seed.
        b: Those of the setting that it is compared with.
        test: ``paired-t``: Student's t-test of the differences. ``bootstrap``: the percentile interval of their mean,
            over 10,000 resamples drawn with a fixed seed. It is too narrow for a handful of seeds.

    Raises:
        RunError: The paired t-test is asked for, and scipy is not installed.
    """
    seeds = [seed for seed in a if seed in b]
    differences = np.array([a[seed] - b[seed] for seed in seeds])
    if len(seeds) < 2 or test == "none":
        mean = float(differences.mean()) if seeds else None
        reason = "" if test == "none" else f"{len(seeds)} common seed{'' if len(seeds) == 1 else 's'}: a test needs 2"
        return Comparison(len(seeds), mean, reason=reason)
    mean = float(differences.mean())
    if not np.isfinite(differences).all():
        return Comparison(len(seeds), mean, reason="a value is not finite")
    if np.ptp(differences) <= 1e-12 * np.abs(differences).max():
        return Comparison(len(seeds), mean, reason="the difference is the same in all pairs: its spread is not known")
    return _paired_t(differences) if test == "paired-t" else _bootstrap(differences)


def _paired_t(differences: np.ndarray) -> Comparison:
    try:
        from scipy import stats
    except ImportError:
        mend = "pip install 'mmtrain[report]', or take --test bootstrap"
        raise RunError("the paired t-test needs the package scipy", mend=mend) from None
    found = stats.ttest_1samp(differences, 0.0)
    low, high = found.confidence_interval(1 - LEVEL)
    p = float(found.pvalue)
    return Comparison(len(differences), float(differences.mean()), p, float(low), float(high), p < LEVEL)


def _bootstrap(differences: np.ndarray) -> Comparison:
    count = len(differences)
    # NumPy promises the raw stream of Philox across versions, and not what Generator makes of it.
    drawn = np.random.Philox(_SEED).random_raw(_RESAMPLES * count).reshape(_RESAMPLES, count) % count
    means = differences[drawn].mean(axis=1)
    low, high = (float(end) for end in np.quantile(means, (LEVEL / 2, 1 - LEVEL / 2)))
    return Comparison(count, float(differences.mean()), None, low, high, not low <= 0 <= high)
