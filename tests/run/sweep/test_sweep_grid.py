"""From overrides to jobs: every combination, names that stay, and what is no grid."""

from __future__ import annotations

import math

import pytest

from mmtrain.config.override import parse_override
from mmtrain.errors import ConfigError
from mmtrain.run.sweep.grid import expand, first_values, value_text

BASE = "experiment=clip_emoji"


def names(*overrides: str, varying: tuple[str, ...] = ()) -> list[str]:
    return [job.name for job in expand([BASE, *overrides], varying)]


def test_every_combination_is_a_job_and_the_last_key_varies_fastest() -> None:
    jobs = expand([BASE, "seed=1,2", "optim.weight_decay=0", "optim.lr=1e-4,0.0003"])
    assert [job.varied for job in jobs] == [
        ("seed=1", "optim.lr=1e-4"),
        ("seed=1", "optim.lr=3e-4"),
        ("seed=2", "optim.lr=1e-4"),
        ("seed=2", "optim.lr=3e-4"),
    ]
    assert jobs[3].overrides == (BASE, "seed=2", "optim.weight_decay=0", "optim.lr=3e-4")
    assert jobs[0].name == "seed=1,optim.lr=1e-4"


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("seed=range(1,4)", ["1", "2", "3"]),
        ("seed=choice(7)", ["7"]),
        ("seed=sort(3,1,2)", ["1", "2", "3"]),
        ("model=clip,vit", ["clip", "vit"]),
        ("model.image.stem=[8],[16,32]", ["[8]", "[16,32]"]),
        ("data.filter='a,b',c", ["'a,b'", "c"]),
        ("callback.ema=null,{decay:0.9}", ["null", "{decay:0.9}"]),
        ("trainer.compile=true,false", ["true", "false"]),
    ],
)
def test_all_of_hydras_lists_are_read(line: str, values: list[str]) -> None:
    key = line.partition("=")[0]
    assert [job.varied for job in expand([BASE, line])] == [(f"{key}={value}",) for value in values]


def test_a_job_keeps_its_name_whatever_else_the_grid_holds_and_however_its_numbers_are_written() -> None:
    assert set(names("seed=1,2")) < set(names("seed=1,2,3"))
    assert names("optim.lr=0.0001,0.001") == names("optim.lr=1e-4,1.0e-3") == ["optim.lr=1e-4", "optim.lr=1e-3"]


def test_names_are_names_of_files_short_and_never_the_same() -> None:
    texts = ["a/b", "a b", "a_b", "'a,b'", "x" * 300, "x" * 301, "'ä'", ".."]
    found = names(f"data.root={','.join(texts)}")
    assert len(set(found)) == len(texts)
    assert all("/" not in name and " " not in name and len(name) <= 120 and name.isascii() for name in found)
    assert found[2] == "data.root=a_b", "what needs no change has no hash"


def test_one_value_names_a_job_where_the_plan_varies_its_key() -> None:
    assert names("seed=4", varying=("seed",)) == ["seed=4"]
    with pytest.raises(ConfigError, match="nothing to sweep over"):
        names("seed=4")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("seed=1,1", "the value 1 is there twice"),
        ("optim.lr=1e-4,0.0001", "the value 1e-4 is there twice"),
        ("seed=shuffle(1,2)", "one order"),
        ("optim.lr=interval(0,1)", "cannot be listed"),
        ("seed=1,[2", "cannot be read"),
        ("seed=range(1)x", "cannot be read"),
        ("name=a,b", "sets name itself"),
        ("run.dir=a", "sets run.dir itself"),
        ("run.fresh=true", "sets run.fresh itself"),
        ("seed", "cannot be read"),
    ],
)
def test_what_is_no_grid_is_refused_with_the_override_at_fault(line: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        expand([BASE, "trainer.threads=1,2", line])
    assert line in str(error.value)


def test_a_key_with_several_values_is_set_once() -> None:
    with pytest.raises(ConfigError, match="seed is set twice"):
        expand([BASE, "seed=1,2", "seed=3"])


def test_the_first_values_are_those_of_one_job() -> None:
    lines = [BASE, "seed=5,6", "optim.lr=tag(log,interval(1e-5,1e-3))", "trainer.threads=range(2,8)"]
    assert first_values(lines) == [BASE, "seed=5", "optim.lr=1e-5", "trainer.threads=2"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(1e-4, "1e-4"), (3.25e-4, "3.25e-4"), (0.1, "0.1"), (10.0, "10.0"), (1e6, "1e6"), (-2e-5, "-2e-5"), (0.0, "0.0")],
)
def test_numbers_are_short_and_exact(value: float, text: str) -> None:
    assert value_text(value) == text
    assert parse_override(f"a={text}").value() == value
    assert isinstance(parse_override(f"a={text}").value(), float)


def test_values_that_are_no_finite_numbers_are_read_back() -> None:
    assert parse_override(f"a={value_text(math.inf)}").value() == math.inf
    assert math.isnan(parse_override(f"a={value_text(math.nan)}").value())
    assert value_text(True) == "true"
