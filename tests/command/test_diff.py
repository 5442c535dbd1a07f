"""``diff``: two real runs side by side, and two that are not whole."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from recorded_runs import CODE, GIT, MANIFEST, TREE, ended, write_recorded
from tiny_run import Program, tiny

from mmtrain.data.shards.build import index_shards
from mmtrain.run.code_state import Repository

SHORT = "budget.samples=160"


@pytest.fixture
def run(program: Program, shapes: Path, tmp_path: Path) -> Path:
    run = tmp_path / "a"
    assert program(*tiny(shapes, run, SHORT)).status == 0
    return run


def test_runs_that_differ_in_config_data_and_threads_are_told_apart(
    program: Program, shapes: Path, tmp_path: Path, run: Path
) -> None:
    data = Path(shutil.copytree(shapes, tmp_path / "data"))
    (data / "train" / "train-000001.tar").write_bytes((shapes / "train" / "train-000000.tar").read_bytes())
    index_shards(data / "train", force=True)
    other = tmp_path / "b"
    assert program(*tiny(data, other, SHORT, "optim.lr=3e-3", "trainer.threads=2", "~callback.retrievals")).status == 0
    outcome = program("diff", run, other)
    assert (outcome.status, outcome.err) == (0, "")
    out = outcome.out
    assert re.search(r"^A  \S+/a  done, step 10 of 10$", out, re.MULTILINE)
    assert re.search(r"^config\n.*├── optim\n│.*lr: 0.004 -> 0.003$", out, re.MULTILINE | re.DOTALL)
    assert "retrievals" in out and "-> (absent)" in out
    assert re.search(r"^code\n└── the same$", out, re.MULTILINE)
    assert re.search(r"^packages\n└── the same$", out, re.MULTILINE)
    assert re.search(r"^machine\n└── threads: 1 -> 2$", out, re.MULTILINE)
    assert re.search(
        r'^data\n├── train: "\w{12}" -> "\w{12}"\n└── shards of train\n    └── train-000001.tar: ', out, re.M
    )
    assert "training loss differs first at step 1: " in out
    assert re.search(r"eval/new_style/loss: [\d.]+ -> [\d.]+  \([+-][\d.]+\)", out)
    found = json.loads(program("diff", run, other, "--json").out)
    assert found["config"]["optim.lr"] == {"a": 0.004, "b": 0.003}
    assert list(found["shards"]["train"]) == ["train-000001.tar"]
    assert found["losses"]["step"] == 1


def test_a_run_is_the_same_as_itself_to_the_last_bit_of_its_losses(program: Program, run: Path) -> None:
    out = program("diff", run, run).out
    for part in ("config", "code", "packages", "machine", "data"):
        assert re.search(rf"^{part}\n└── the same$", out, re.MULTILINE)
    assert "training loss is the same at all 10 steps that both recorded" in out


def test_what_is_not_known_of_both_is_not_called_the_same(program: Program, tmp_path: Path) -> None:
    old = write_recorded(tmp_path / "old", None)
    failed = write_recorded(tmp_path / "failed", ended("failed: x", 2), [], marks=("lock",))
    outcome = program("diff", old, failed)
    assert outcome.status == 0
    for part in ("code", "packages", "machine", "data"):
        assert re.search(rf"^{part}\n└── not known of both$", outcome.out, re.MULTILINE)
    assert "A: it has no manifest.json" in outcome.out
    assert "B: it has no metrics yet" in outcome.out
    assert "no step of training was recorded by both" in outcome.out


def test_what_is_no_run_is_refused(program: Program, run: Path, tmp_path: Path) -> None:
    outcome = program("diff", run, tmp_path)
    assert outcome.status == 1
    assert "this is not the directory of a run" in outcome.err


def test_code_uncommitted_work_and_packages_that_differ_are_named(program: Program, tmp_path: Path) -> None:
    tree = replace(TREE, files={"a.py": "0" * 64, "b.py": "b" * 64})
    git = Repository(replace(GIT, branch="topic", dirty=True), "diff.patch", "d" * 64)
    code = {"code0": replace(CODE, packages={"mmtrain": tree}, repositories={"mmtrain": git})}
    packages = {"packages0": {"torch": "2.12.0", "numpy": "2.1"}}
    one = write_recorded(tmp_path / "a")
    other = write_recorded(tmp_path / "b", replace(MANIFEST, code=code, packages=packages))
    long = "+" + "x" * 300
    head = "diff --git a/a.py b/a.py\n--- a/a.py\n+++ b/a.py\n@@ -0,0 +1,61 @@"
    (other / "diff.patch").write_text("\n".join([head, long, *(f"+line {number}" for number in range(60))]))
    out = program("diff", one, other).out
    assert re.search(r'^packages\n└── torch: "2.13.0" -> "2.12.0"$', out, re.MULTILINE)
    assert 'branch of mmtrain: "main" -> "topic"' in out
    assert f'└── mmtrain/a.py: "{"a" * 12}" -> "{"0" * 12}"' in out
    assert long in out, "no line is cut"
    assert "... and 24 lines more" in out, out
