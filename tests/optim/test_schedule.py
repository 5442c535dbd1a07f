from __future__ import annotations

import math
from itertools import pairwise

import pytest

from mmtrain.errors import ConfigError
from mmtrain.optim.schedule import Constant, Cosine, Linear, Schedule

TOTAL = 100


def factors(schedule: Schedule, total: int = TOTAL) -> list[float]:
    return [schedule.factor(step, total) for step in range(total + 1)]


@pytest.mark.parametrize("kind", [Cosine, Linear, Constant])
@pytest.mark.parametrize("options", [{"warmup_steps": 10}, {"warmup_fraction": 0.1}])
def test_warmup_climbs_in_equal_steps_to_the_peak(kind: type[Schedule], options: dict[str, float]) -> None:
    values = factors(kind(**options))  # type: ignore[arg-type]
    assert values[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert values[10] == 1


@pytest.mark.parametrize("kind", [Cosine, Linear])
@pytest.mark.parametrize("final", [0.0, 0.1])
def test_decay_falls_steadily_to_the_final_fraction(kind: type[Schedule], final: float) -> None:
    values = factors(kind(warmup_steps=10, final_fraction=final))[10:]
    assert all(after < before for before, after in pairwise(values))
    assert values[0] == 1
    assert values[45] == pytest.approx((1 + final) / 2)
    assert values[-1] == pytest.approx(final)
    assert kind(warmup_steps=10, final_fraction=final).factor(TOTAL + 50, TOTAL) == pytest.approx(final)


def test_cosine_is_open_clips() -> None:
    """open_clip_train/scheduler.py, ``cosine_lr``."""
    values = factors(Cosine(warmup_steps=10))
    for step in range(10, TOTAL):
        assert values[step] == pytest.approx(0.5 * (1 + math.cos(math.pi * (step - 10) / (TOTAL - 10))))


def test_constant_stays_at_the_peak() -> None:
    assert set(factors(Constant(warmup_steps=10, final_fraction=0.5))[10:]) == {1}


def test_no_warmup_starts_at_the_peak() -> None:
    assert Cosine().factor(0, TOTAL) == 1
    assert Cosine(warmup_steps=0).factor(0, TOTAL) == 1


@pytest.mark.parametrize("total", [1, 5, 10, 11])
def test_short_runs_stay_in_range(total: int) -> None:
    assert all(0 <= value <= 1 for value in factors(Cosine(warmup_steps=10), total))


def test_both_forms_of_warmup_are_refused() -> None:
    with pytest.raises(ConfigError, match="warmup_steps=0 and warmup_fraction=0.1 are both set") as error:
        Cosine(warmup_steps=0, warmup_fraction=0.1)
    assert error.value.mend == "set one of them to null"


@pytest.mark.parametrize("fraction", [-0.1, 1.1])
def test_a_warmup_that_is_no_share_of_a_run_is_refused(fraction: float) -> None:
    with pytest.raises(ConfigError, match="is no share of a run"):
        Cosine(warmup_fraction=fraction)
