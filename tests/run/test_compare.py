"""Two runs side by side: every difference, nothing else, and what could not be compared."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from recorded_runs import CODE, CONFIG, ENVIRONMENT, GIT, MANIFEST, ROWS, SEGMENT, TREE, write_recorded

from mmtrain.run.code_state import Repository
from mmtrain.run.compare import compare, first_difference
from mmtrain.run.data_record import DataRecord
from mmtrain.run.environment import Node
from mmtrain.run.evidence import gather


def test_a_run_does_not_differ_from_itself(tmp_path: Path) -> None:
    run = gather(write_recorded(tmp_path / "run"))
    found = asdict(compare(run, run))
    assert found.pop("losses") == {"step": None, "losses": {}, "compared": 4}
    assert not any(found.values()), found


def test_everything_that_differs_is_told_and_nothing_else(tmp_path: Path) -> None:
    a = gather(write_recorded(tmp_path / "a"))
    tree = replace(TREE, files={"a.py": "a" * 64, "b.py": "0" * 64, "c.py": "c" * 64}, sha256="u" * 64)
    dirty = Repository(replace(GIT, dirty=True, branch="topic"), "diff.patch", "d" * 64)
    manifest = replace(
        MANIFEST,
        config={**CONFIG, "optim": {"lr": 2e-3, "betas": [0.9]}},
        segments=[replace(SEGMENT, world_size=2, strategy="DDPStrategy")],
        code={"code0": replace(CODE, packages={"mmtrain": tree}, repositories={"mmtrain": dirty})},
        packages={"packages0": {"torch": "2.12.0", "new": "1"}},
        environments={"environment0": replace(ENVIRONMENT, cores=2, variables={}, nodes=[Node("node1", 2, "cpu")])},
        data=DataRecord({"train": "e" * 64, "tokenizer": "k" * 64}),
        shards={"train": {"0.tar": "0" * 64, "1.tar": "2" * 64}},
        best=None,
    )
    rows = [ROWS[0], {**ROWS[1], "train/loss": 0.75}, {"step": 3, "eval/x/top1": 0.5}]
    path = write_recorded(tmp_path / "b", manifest, rows)
    part = "diff --git a/{0} b/{0}\nindex 1..2\n--- a/{0}\n+++ b/{0}\n@@ -1 +1 @@\n-old\n+work\n"
    (path / "diff.patch").write_text(part.format("a.md") + part.format("b.py"))
    found = compare(a, gather(path))
    assert found.config == {"optim.lr": {"a": 1e-3, "b": 2e-3}, "optim.betas": {"b": [0.9]}}
    assert found.files == {
        "mmtrain/b.py": {"a": "b" * 64, "b": "0" * 64},
        "mmtrain/c.py": {"b": "c" * 64},
    }
    assert found.code == {
        "sources of mmtrain": {"a": "t" * 64, "b": "u" * 64},
        "branch of mmtrain": {"a": "main", "b": "topic"},
        "uncommitted work in mmtrain": {"a": False, "b": True},
        "patch of mmtrain": {"a": None, "b": "d" * 64},
    }
    lines = ["@@ -0,0 +1,3 @@", "+@@ -1 +1 @@", "+-old", "++work"]
    assert found.patches == {"mmtrain": ["b.py:", *lines, "a.md:", *lines]}
    assert found.packages == {
        "torch": {"a": "2.13.0", "b": "2.12.0"},
        "numpy": {"a": "2.1"},
        "new": {"b": "1"},
    }
    assert found.machine == {
        "ranks": {"a": "1 x cpu on node1", "b": "2 x cpu on node1"},
        "world_size": {"a": 1, "b": 2},
        "strategy": {"a": "SingleDeviceStrategy", "b": "DDPStrategy"},
        "cores": {"a": 8, "b": 2},
        "OMP_NUM_THREADS": {"a": "1"},
    }
    assert found.data == {"train": {"a": "f" * 64, "b": "e" * 64}}
    assert found.shards == {"train": {"1.tar": {"a": "1" * 64, "b": "2" * 64}}}
    assert found.final == {
        "train/loss": {"a": 0.25, "b": 0.75, "difference": 0.5},
        "eval/x/top1": {"b": 0.5},
    }
    assert found.best == {"eval/x/top1": {"a": 0.5}, "eval/x/loss": {"a": 1.5}}
    assert asdict(found.losses) == {"step": 2, "losses": {"a": 0.5, "b": 0.75}, "compared": 2}
    assert found.notes == []


def test_what_one_run_did_not_record_is_told_and_not_called_different(tmp_path: Path) -> None:
    found = compare(gather(write_recorded(tmp_path / "a")), gather(write_recorded(tmp_path / "b", None)))
    assert not any((found.config, found.code, found.files, found.packages, found.machine, found.data, found.shards))
    assert found.notes == [
        "B: it has no manifest.json: of code, packages and machine nothing is known",
        "B: the uncommitted work in mmtrain is not known",
    ]


def test_of_uncommitted_work_only_the_files_that_differ_are_shown(tmp_path: Path) -> None:
    code = replace(CODE, repositories={"mmtrain": Repository(replace(GIT, dirty=True), "diff.patch", "d" * 64)})
    part = "diff --git a/{0} b/{0}\nindex {1}\n--- a/{0}\n+++ b/{0}\n@@ -1 +1 @@\n-old\n+{2}\n"
    runs = []
    for name, new in (("a", "x"), ("b", "y")):
        path = write_recorded(tmp_path / name, replace(MANIFEST, code={"code0": code}))
        (path / "diff.patch").write_text(part.format("same.py", name, "x") + part.format("other.py", name, new))
        runs.append(gather(path))
    assert compare(*runs).patches == {"mmtrain": ["other.py:", "@@ -2,2 +2,2 @@", " -old", "-+x", "++y"]}


def test_ranks_that_never_met_are_not_called_different(tmp_path: Path) -> None:
    segment = replace(SEGMENT, world_size=None, strategy=None, precision=None, threads=None)
    environments = {"environment0": replace(ENVIRONMENT, nodes=[], cores=2)}
    early = replace(MANIFEST, segments=[segment], environments=environments)
    found = compare(gather(write_recorded(tmp_path / "a")), gather(write_recorded(tmp_path / "b", early)))
    assert found.machine == {"cores": {"a": 8, "b": 2}}


def test_the_uncommitted_work_of_two_commits_is_not_compared_line_by_line(tmp_path: Path) -> None:
    git = replace(GIT, commit="e" * 40, dirty=True)
    code = replace(CODE, repositories={"mmtrain": Repository(git, "diff.patch", "d" * 64)})
    path = write_recorded(tmp_path / "b", replace(MANIFEST, code={"code0": code}))
    (path / "diff.patch").write_text("+work\n")
    found = compare(gather(write_recorded(tmp_path / "a")), gather(path))
    assert found.code["commit of mmtrain"] == {"a": "c" * 40, "b": "e" * 40}
    assert found.patches == {}
    assert found.notes == ["the uncommitted work in mmtrain is that of two commits, and is not compared line by line"]


def test_shards_that_were_not_recorded_are_told(tmp_path: Path) -> None:
    other = replace(MANIFEST, data=DataRecord({"train": "0" * 64, "tokenizer": "x" * 64}), shards={})
    found = compare(
        gather(write_recorded(tmp_path / "a")), gather(write_recorded(tmp_path / "b", other)), ("then", "now")
    )
    assert found.data.keys() == {"train", "tokenizer"}
    assert (found.shards, found.notes) == ({}, ["now: the shards of train were not recorded"])


@pytest.mark.parametrize(
    ("a", "b", "step"),
    [
        ({1: 1.0, 2: 2.0}, {1: 1.0, 2: 2.0}, None),
        ({1: 1.0, 2: 2.0}, {1: 1.0, 2: math.nextafter(2.0, 3)}, 2),
        ({1: math.nan, 2: 2.0}, {1: math.nan}, None),
        ({1: math.nan}, {1: 1.0}, 1),
        ({2: 1.0}, {1: 5.0}, None),
    ],
)
def test_the_first_loss_that_differs_in_any_bit_is_found(
    a: dict[int, float], b: dict[int, float], step: int | None
) -> None:
    found = first_difference(a, b)
    assert found.step == step
    assert found.compared == len(a.keys() & b.keys())


def test_true_is_not_one_and_an_empty_mapping_is_a_value(tmp_path: Path) -> None:
    one = write_recorded(tmp_path / "a", replace(MANIFEST, config={"x": 1, "y": {}}))
    other = write_recorded(tmp_path / "b", replace(MANIFEST, config={"x": True, "y": {}}))
    assert compare(gather(one), gather(other)).config == {"x": {"a": 1, "b": True}}
