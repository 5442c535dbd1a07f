from __future__ import annotations

import math
from itertools import pairwise

import pytest

from mmtrain.errors import ConfigError
from mmtrain.optim.schedule import Constant, Cosine, Linear, Schedule, WarmupStableDecay

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


def test_cosine_with_a_final_fraction_is_nanogpts() -> None:
    """nanoGPT, ``get_lr`` of train.py with ``lr_decay_iters = max_iters``: from 6e-4 to 6e-5, of the warmup on."""
    values = factors(Cosine(warmup_steps=20, final_fraction=0.1))
    for step in range(20, TOTAL + 1):
        ratio = (step - 20) / (TOTAL - 20)
        expected = 6e-5 + 0.5 * (1.0 + math.cos(math.pi * ratio)) * (6e-4 - 6e-5)
        assert 6e-4 * values[step] == pytest.approx(expected, rel=1e-12)


def test_warmup_stable_decay_holds_the_peak_and_falls_in_its_last_share() -> None:
    values = factors(WarmupStableDecay(warmup_steps=10, decay_fraction=0.2, shape="linear", final_fraction=0.1))
    assert values[9:81] == [1.0] * 72
    assert values[80:] == pytest.approx([1 - 0.9 * step / 20 for step in range(21)])


def test_the_square_root_shape_is_that_of_hagele_et_al() -> None:
    """arXiv:2405.18392, section 3.2: ``1 - sqrt((n - (N - N_decay)) / N_decay)``."""
    values = factors(WarmupStableDecay(decay_fraction=0.25))
    assert values[75:] == pytest.approx([1 - math.sqrt((n - 75) / 25) for n in range(75, 101)])
    assert set(values[:76]) == {1.0}


@pytest.mark.parametrize("total", [1, 5, 10, 11, 13])
def test_a_decay_waits_for_the_warmup_of_a_short_run(total: int) -> None:
    values = factors(WarmupStableDecay(warmup_steps=10, decay_fraction=0.5), total)
    assert values[:11] == pytest.approx([min(1, (step + 1) / 10) for step in range(total + 1)][:11])
    assert all(0 <= value <= 1 for value in values)


@pytest.mark.parametrize("options", [{"decay_fraction": 0.0}, {"decay_fraction": 0.95, "warmup_fraction": 0.1}])
def test_a_decay_that_does_not_fit_into_the_run_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="is no share of what the warmup leaves of a run"):
        WarmupStableDecay(**options)  # type: ignore[arg-type]
