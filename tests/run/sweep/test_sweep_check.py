"""Every job is checked before the first one starts, and each mistake is told once."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmtrain.errors import ConfigError
from mmtrain.run.sweep.check import checked, naming, quoted, refuse_equal
from mmtrain.run.sweep.grid import Job, expand

BASE = "experiment=clip_emoji"


def test_good_jobs_give_their_configs_in_order() -> None:
    seen: list[int] = []
    configs = checked(expand([BASE, "seed=4,5"]), [], seen.append)
    assert [(composed.config["seed"], composed.config["name"]) for composed in configs] == [
        (4, "seed=4"),
        (5, "seed=5"),
    ]
    assert seen == [1, 2]


def test_a_mistake_of_all_jobs_is_told_once_with_its_mend() -> None:
    with pytest.raises(ConfigError) as error:
        checked(expand([BASE, "seed=1,2", "optim.lrr=1"]), [])
    text = str(error.value)
    assert "2 of 2 jobs are wrong, and none was started" in text
    assert text.count("did you mean 'lr'?") == 1
    assert "- all jobs:" in text


def test_mistakes_of_some_jobs_name_the_jobs() -> None:
    with pytest.raises(ConfigError) as error:
        checked(expand([BASE, "seed=1,2,3,4,oops", "optim.lr=1e-4,fast"]), [])
    text = str(error.value)
    assert "6 of 10 jobs are wrong" in text
    assert "- seed=oops,optim.lr=1e-4:" in text
    assert "- seed=1,optim.lr=fast; seed=2,optim.lr=fast; seed=3,optim.lr=fast and 1 more:" in text


def test_a_batch_that_cannot_be_divided_is_told_where_the_devices_are_known() -> None:
    jobs = expand([BASE, "data.global_batch_size=30,32", "trainer.devices=4"])
    with pytest.raises(ConfigError, match="1 of 2 jobs is wrong"):
        checked(jobs, [])


def test_a_model_that_cannot_be_built_is_told_without_the_memory_of_those_that_can() -> None:
    jobs = expand([BASE, "model.image.num_heads=4,5", "model.image.d_model=65536", "model.image.num_layers=2"])
    with pytest.raises(ConfigError, match="1 of 2 jobs is wrong") as error:
        checked(jobs, [])
    assert "num_heads" in str(error.value)


def test_two_jobs_of_one_config_are_refused() -> None:
    jobs = [Job((BASE, "seed=1", "optim.lr=1e-4"), ("seed=1",)), Job((BASE, "seed=2", "optim.lr=1e-4"), ("seed=2",))]
    refuse_equal(jobs, checked(jobs, []))
    twins = [jobs[0], Job((*jobs[1].overrides, "seed=1"), jobs[1].varied)]
    with pytest.raises(ConfigError, match="same configuration") as error:
        refuse_equal(twins, checked(twins, []))
    assert error.value.where == "seed=1 and seed=2"


def test_a_name_is_one_value_whatever_it_holds(tmp_path: Path) -> None:
    assert naming("seed=1,optim.lr=1e-4") == "name='seed=1,optim.lr=1e-4'"
    for text in ("it's", "a,b", "[1", "back\\slash", ""):
        composed = checked([Job((BASE, f"logger.wandb.project={quoted(text)}"), ("x=1",))], [])[0]
        assert composed.config["logger"]["wandb"]["project"] == text
