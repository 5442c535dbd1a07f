"""A search through Optuna: what is drawn, by whom, and what is told, with a journal that processes share."""

from __future__ import annotations

import json
import math
import multiprocessing
from pathlib import Path

import pytest

from mmtrain.errors import ConfigError, RunError
from mmtrain.run.sweep.plan import Sweep
from mmtrain.run.sweep.planner import Planned, Wanted, plan_search, planned_metric
from mmtrain.run.sweep.progress import Metric, Mode
from mmtrain.run.sweep.search import Sampler, Search, drawn, read_search, suggest, tell
from mmtrain.run.sweep.space import axes, probe_jobs, split_space

optuna = pytest.importorskip("optuna")
BASE = "experiment=clip_emoji"
METRIC = "eval/new_style/top1"
LR = "optim.lr=tag(log,interval(1e-5,1e-1))"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def plan(
    *overrides: str,
    sampler: Sampler = "random",
    trials: int = 3,
    metric: str | None = METRIC,
    mode: Mode | None = None,
    seed: int = 0,
    name: str = "s",
) -> Planned:
    wanted = Wanted((BASE, *overrides), name, ())
    return plan_search(wanted, lambda done: None, sampler=sampler, trials=trials, metric=metric, mode=mode, seed=seed)


def reach(sweep: Sweep, index: int, *values: float, done: bool = True) -> None:
    """What a job leaves behind that reached these values of the metric."""
    run = sweep.run(sweep.element(index))
    run.path.mkdir(parents=True, exist_ok=True)
    rows = [{"step": step, METRIC: value if math.isfinite(value) else "NaN"} for step, value in enumerate(values)]
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if done:
        run.done.touch()


def study(sweep: Sweep) -> optuna.Study:
    backend = optuna.storages.journal.JournalFileBackend(str(sweep.path / "journal.log"))
    return optuna.load_study(study_name="sweep", storage=optuna.storages.JournalStorage(backend))


def search_of(sweep: Sweep) -> Search:
    search = read_search(sweep)
    assert search is not None
    return search


def draw(sweep: Sweep, index: int) -> tuple[str, ...]:
    return suggest(sweep, search_of(sweep), index)


def value(overrides: tuple[str, ...], key: str) -> str:
    return dict(line.split("=", 1) for line in overrides)[key]


def test_the_space_is_what_has_several_values_and_each_end_of_it_is_checked() -> None:
    lines = [BASE, LR, "model.image.num_layers=range(2,13,2)", "seed=int(interval(1,9))", "strategy=auto,ddp"]
    fixed, space = split_space(lines)
    assert (fixed, space) == ([BASE], lines[1:])
    lr, layers, seed, strategy = axes(space)
    assert (lr.distribution.low, lr.distribution.high, lr.distribution.log) == (1e-5, 1e-1, True)
    assert (layers.distribution.low, layers.distribution.high, layers.distribution.step) == (2, 12, 2)
    assert isinstance(seed.distribution, optuna.distributions.IntDistribution)
    assert strategy.probes == ("strategy=auto", "strategy=ddp")
    assert {line for job in probe_jobs(fixed, axes(space)) for line in job.varied} == {
        *("optim.lr=1e-5", "optim.lr=0.1", "model.image.num_layers=2", "model.image.num_layers=12"),
        *("seed=1", "seed=9", "strategy=auto", "strategy=ddp"),
    }


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ((), "nothing to search"),
        (("optim.lr=tag(log,interval(0,1))",), "cannot be searched"),
        (("optim.lr=interval(2,1)",), "cannot be searched"),
        (("seed=interval(1,9)",), "2 of 2 jobs are wrong"),
        (("optim.lrr=interval(0.1,1)",), "did you mean 'lr'"),
        (("model.image.d_model=33,64",), "1 of 2 jobs is wrong"),
    ],
)
def test_a_space_that_holds_a_mistake_is_refused_before_anything_is_drawn(lines: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(*lines)
    assert list(Path().iterdir()) == []


def test_the_metric_is_that_of_the_best_checkpoint_unless_another_is_named() -> None:
    own = plan(LR, metric=None, name="own").sweep
    assert planned_metric(own) == Metric("eval/new_style/top5", "max")
    assert own.element(0).overrides == (BASE,)
    other = plan(LR, metric="eval/new_concept/loss", mode="min", name="other").sweep
    assert planned_metric(other) == Metric("eval/new_concept/loss", "min")
    # so that a run without such a metric ends at its first evaluation
    assert other.base_config()["callback"]["checkpoint"]["monitor"] == "eval/new_concept/loss"
    with pytest.raises(ConfigError, match="a search needs a metric"):
        plan(LR, "callback.checkpoint.monitor=null", metric=None, name="none")


def test_a_trial_keeps_what_it_drew_and_draws_by_its_own_number() -> None:
    sweep = plan(LR, "seed=range(0,1000)").sweep
    first = draw(sweep, 0)
    assert 1e-5 <= float(value(first, "optim.lr")) <= 1e-1
    assert draw(sweep, 0) == first == drawn(sweep, 0)
    assert drawn(sweep, 1) is None
    second = draw(sweep, 1)
    assert second != first
    other = plan(LR, "seed=range(0,1000)", name="other").sweep
    assert (draw(other, 1), draw(other, 0)) == (second, first), "in any order"
    assert draw(plan(LR, "seed=range(0,1000)", seed=1, name="third").sweep, 0) != first
    assert len(study(sweep).trials) == 2


def test_more_trials_are_added_and_another_search_is_refused() -> None:
    sweep = plan(LR).sweep
    before = draw(sweep, 0)
    reach(sweep, 0, 0.5)
    more = plan(LR, trials=5)
    assert [element.name for element in more.sweep.elements()] == [f"trial={index:04d}" for index in range(5)]
    assert draw(sweep, 0) == before
    for changed in ({"sampler": "tpe"}, {"metric": "eval/a/b"}, {"mode": "min"}, {"seed": 1}):
        with pytest.raises(RunError, match="another search|another config"):
            plan(LR, **changed)
    with pytest.raises(RunError, match="space"):
        plan("optim.lr=interval(1e-5,1e-1)")


def test_the_best_value_of_a_run_is_told_once_and_none_for_what_was_never_a_number() -> None:
    sweep = plan(LR, trials=4).sweep
    for index in range(4):
        draw(sweep, index)
    reach(sweep, 0, 0.2, 0.7, 0.6)
    reach(sweep, 1, math.nan, math.nan)
    reach(sweep, 2, 0.9, done=False)
    for _ in range(2):
        tell(sweep, search_of(sweep), sweep.element(0))
    states = optuna.trial.TrialState
    assert [(trial.state, trial.value) for trial in study(sweep).trials] == [
        (states.COMPLETE, 0.7),
        (states.FAIL, None),
        (states.RUNNING, None),
        (states.RUNNING, None),
    ]


def test_the_least_is_the_best_where_that_is_sought() -> None:
    sweep = plan(LR, mode="min").sweep
    draw(sweep, 0)
    reach(sweep, 0, 0.7, 0.2, 0.6)
    tell(sweep, search_of(sweep), sweep.element(0))
    assert study(sweep).best_value == 0.2


def test_a_run_without_the_metric_names_the_nearest() -> None:
    sweep = plan(LR, metric="eval/new_style/top11").sweep
    draw(sweep, 0)
    reach(sweep, 0, 0.5)
    with pytest.raises(RunError, match="recorded no metric") as error:
        tell(sweep, search_of(sweep), sweep.element(0))
    assert f"did you mean '{METRIC}'?" in str(error.value)


def test_tpe_comes_nearer_to_the_best_than_chance() -> None:
    sweep = plan("optim.lr=interval(0.0,1.0)", sampler="tpe", trials=24).sweep
    search, distances = search_of(sweep), []
    for index, element in enumerate(sweep.elements()):
        distances.append(abs(float(value(draw(sweep, index), "optim.lr")) - 0.3))
        reach(sweep, index, 1 - distances[-1])
        tell(sweep, search, element)
    assert sum(distances[-8:]) < 0.5 * sum(distances[:8])


def _draw_in(folder: str, index: int) -> tuple[str, ...]:
    return draw(Sweep(Path(folder)), index)


def test_tasks_that_start_at_the_same_moment_share_the_journal_and_two_of_one_trial_agree() -> None:
    sweep = plan(LR, sampler="tpe", trials=4).sweep
    folder = str(sweep.path.resolve())
    with multiprocessing.get_context("fork").Pool(4) as pool:
        found = pool.starmap(_draw_in, [(folder, 0), (folder, 1), (folder, 2), (folder, 2)], chunksize=1)
    assert found[2] == found[3] == drawn(sweep, 2)
    assert len(set(found)) == 3
    running = [trial for trial in study(sweep).trials if trial.state == optuna.trial.TrialState.RUNNING]
    assert len(running) == 3
