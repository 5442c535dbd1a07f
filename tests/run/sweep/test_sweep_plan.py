"""The plan on disk: what a second command adds, keeps, replaces and refuses."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mmtrain.errors import ConfigError, RunError
from mmtrain.run.sweep.plan import Sweep, sweep_directory
from mmtrain.run.sweep.planner import Planned, Wanted, plan_grid, plan_search

BASE = "experiment=clip_emoji"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def plan(*overrides: str, name: str | None = "s", config_dirs: tuple[Path, ...] = ()) -> Planned:
    return plan_grid(Wanted((BASE, *overrides), name, config_dirs), lambda done: None)


def begin(planned: Planned) -> None:
    (planned.sweep.path / "runs" / "seed=1").mkdir(parents=True)


def table(planned: Planned) -> dict[int, str]:
    return {element.index: element.name for element in planned.sweep.elements()}


def test_a_plan_is_a_line_a_job_and_is_named_like_the_experiment() -> None:
    planned = plan("seed=1,2", name=None)
    assert planned.sweep.path == Path("sweeps/clip_emoji")
    lines = [json.loads(line) for line in planned.sweep.plan.read_text().splitlines()]
    assert lines[1] == {
        "index": 1,
        "name": "seed=2",
        "run": "runs/seed=2",
        "overrides": [BASE, "seed=2"],
        "varied": ["seed=2"],
        "config_dirs": [],
    }
    assert planned.sweep.base_config()["seed"] == 1
    assert not planned.sweep.was_begun()


def test_more_values_add_jobs_and_all_others_keep_index_and_name() -> None:
    first = plan("seed=1,2", "optim.lr=1e-4")
    begin(first)
    more = plan("seed=3,2,1", "optim.lr=1e-4")
    assert table(more) == {0: "seed=1", 1: "seed=2", 2: "seed=3"}
    assert more.indices == (2, 1, 0)
    only = plan("seed=7", "optim.lr=1e-4")
    assert (table(only)[3], only.indices) == ("seed=7", (3,)), "one value of a key that varies already"


def test_the_order_of_keys_on_the_command_line_makes_no_new_jobs() -> None:
    begin(plan("seed=1,2", "optim.lr=1e-4,1e-3"))
    again = plan("optim.lr=0.0001,0.001", "seed=1,2")
    assert len(table(again)) == 4
    assert sorted(again.indices) == [0, 1, 2, 3]


def test_a_plan_with_another_common_config_is_refused_and_left_alone() -> None:
    first = plan("seed=1,2")
    begin(first)
    before = first.sweep.plan.read_bytes()
    with pytest.raises(RunError, match="planned with another config") as error:
        plan("seed=1,2,3", "optim.weight_decay=0.5")
    assert "optim.weight_decay: 0.02 -> 0.5" in str(error.value)
    assert first.sweep.plan.read_bytes() == before


def test_what_does_not_change_the_trajectory_may_differ_and_reaches_the_jobs_that_were_planned() -> None:
    begin(plan("seed=1,2"))
    again = plan("seed=1,2", "data.num_workers=1", "trainer.threads=1")
    assert "data.num_workers=1" in again.sweep.element(0).overrides


def test_a_plan_of_which_nothing_was_begun_is_replaced() -> None:
    plan("seed=1,2,3")
    again = plan("optim.lr=1e-4,1e-3", "optim.weight_decay=0.5")
    assert table(again) == {0: "optim.lr=1e-4", 1: "optim.lr=1e-3"}
    assert again.sweep.base_config()["optim"]["weight_decay"] == 0.5


def test_a_grid_does_not_become_a_search_once_it_was_begun() -> None:
    begin(plan("seed=1,2"))
    wanted = Wanted((BASE, "seed=1,2"), "s", ())
    with pytest.raises(RunError, match="another search") as error:
        plan_search(wanted, lambda done: None, sampler="random", trials=2, metric="eval/a/b", mode="max", seed=0)
    assert "search: none, a grid -> None" in str(error.value)


def test_a_mistake_in_one_job_leaves_nothing_behind() -> None:
    with pytest.raises(ConfigError, match="1 of 2 jobs"):
        plan("seed=1,no")
    assert list(Path().iterdir()) == []


def test_no_name_and_no_directory_are_told() -> None:
    with pytest.raises(ConfigError, match="the sweep has no name") as error:
        plan_grid(Wanted(("seed=1,2", "data=emoji", "budget.epochs=1"), None, ()), lambda done: None)
    assert error.value.mend == "--name NAME"
    for name in ("a/b", "..", "-a", ""):
        with pytest.raises(ConfigError, match="cannot name a sweep"):
            sweep_directory(name)
    plan("seed=1,2", name="clip_small")
    with pytest.raises(RunError, match="not the directory of a sweep") as error:
        Sweep(Path("sweeps/clip_smal")).elements()
    assert error.value.mend == "did you mean 'clip_small'?"


def test_damaged_lines_and_unknown_indices_are_told() -> None:
    planned = plan("seed=1,2")
    with pytest.raises(RunError, match="has no job 2"):
        planned.sweep.element(2)
    with planned.sweep.plan.open("a") as file:
        file.write('{"index": 2}\n')
    with pytest.raises(RunError, match="damaged") as error:
        planned.sweep.elements()
    assert error.value.where == "sweeps/s/plan.jsonl:3"


def test_two_commands_at_the_same_time_both_add_their_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    first = plan("seed=1,2")
    begin(first)
    asked, locked = threading.Event(), Sweep.locked

    @contextmanager
    def announced(sweep: Sweep) -> Iterator[None]:
        asked.set()
        with locked(sweep):
            yield

    other = threading.Thread(target=plan, args=("seed=3,1",))
    with first.sweep.locked():
        monkeypatch.setattr(Sweep, "locked", announced)
        other.start()
        assert asked.wait(60)
        line = first.sweep.plan.read_text().splitlines()[1].replace("seed=2", "seed=9")
        with first.sweep.plan.open("a") as file:
            file.write(line.replace('"index": 1', '"index": 2') + "\n")
    other.join(60)
    assert table(first) == {0: "seed=1", 1: "seed=2", 2: "seed=9", 3: "seed=3"}


def test_configs_of_the_users_own_are_found_from_anywhere(tmp_path: Path) -> None:
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    text = "# @package _global_\ndefaults: [clip_emoji, _self_]\nname: mine\n"
    (tmp_path / "mine" / "experiment" / "mine.yaml").write_text(text)
    wanted = Wanted(("experiment=mine", "seed=1,2"), None, (Path("mine"),))
    planned = plan_grid(wanted, lambda done: None)
    assert planned.sweep.path == Path("sweeps/mine")
    assert planned.sweep.element(0).config_dirs == (str(tmp_path / "mine"),)
