"""``reproduce``: equal at every step, or stopped at the first that differs with the file, shard or package to blame."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from git_repository import git, repository
from recorded_runs import MANIFEST, SEGMENT, write_recorded
from tiny_run import ROOT, Outcome, Program, kill_group, rows, start, tiny

from mmtrain.data.shards.build import index_shards
from mmtrain.run.manifest import read_manifest, write_manifest

SHORT = "budget.samples=320"
STEPS = 20


@pytest.fixture
def run(program: Program, shapes: Path, tmp_path: Path) -> Path:
    run = tmp_path / "runs" / "clip_emoji"
    assert program(*tiny(shapes, run, SHORT)).status == 0
    return run


def content(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def said_by(arguments: list[str], log: Path, **environment: str) -> Outcome:
    process = start(arguments, log, **environment)
    try:
        status = process.wait(timeout=200)
    except BaseException:
        kill_group(process)
        raise
    return Outcome(status, log.read_text(), "")


def documented() -> list[str]:
    page = (ROOT / "docs" / "reproducibility.md").read_text()
    return page.split("<!-- tested as written -->\n```bash\n")[1].partition("```")[0].splitlines()


@pytest.mark.slow
def test_as_documented_a_run_is_equal_at_every_step_and_another_package_is_named(
    program: Program, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    manifest = read_manifest(run)
    assert manifest is not None
    packages = {key: {**value, "torch": "2.12.9"} for key, value in manifest.packages.items()}
    write_manifest(run, replace(manifest, packages=packages))
    before = content(run)
    said = {}
    for command in documented():
        python_m, _, arguments = command.partition(" mmtrain ")
        done = program(*arguments.split())
        assert (python_m, done.status, done.err) == ("python -m", 0, ""), done.out
        said[arguments.partition(" ")[0]] = done.out
    values = len({(row["step"], key) for row in rows(run, but="throughput/") for key in row if key != "step"})
    assert f"\nequal: {STEPS} recorded steps, {values} values; the same weights at the end\n" in said["reproduce"]
    for verb in ("reproduce", "diff"):
        assert re.search(r'^packages\n└── torch: "2.12.9" -> "2\.\d+', said[verb], re.MULTILINE)
    assert f"training loss is the same at all {STEPS} steps that both recorded" in said["diff"]
    new = run.with_name("clip_emoji-reproduced")
    assert rows(new, but="throughput/") == rows(run, but="throughput/")
    assert content(run) == before
    receipt = json.loads((new / "reproduction.json").read_text())
    assert (receipt["equal"], receipt["steps"], receipt["weights"]) == (True, STEPS, True)
    assert list(receipt["difference"]["packages"]) == ["torch"]


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """mmtrain in a repository of its own, committed, and then a change of a loss."""
    root = repository(tmp_path / "copy")
    shutil.copytree(ROOT / "mmtrain", root / "mmtrain", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "conf", root / "conf")
    (root / ".gitignore").write_text("__pycache__/\n")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message=copy")
    loss = root / "mmtrain" / "nn" / "infonce.py"
    changed = loss.read_text().replace("(2 * (~filler_B).sum())", "(2.001 * (~filler_B).sum())")
    assert changed != loss.read_text()
    loss.write_text(changed)
    return root


@pytest.mark.slow
def test_a_changed_loss_stops_at_the_first_step_and_is_named_and_the_commit_before_it_is_equal(
    run: Path, copied: Path, tmp_path: Path
) -> None:
    there = {"PYTHONPATH": str(copied)}
    outcome = said_by(["reproduce", str(run)], tmp_path / "changed.log", **there)
    assert outcome.status == 1, outcome.out
    assert re.search(r"^step 1 differs:\n  train/loss: \S+ then, \S+ now", outcome.out, re.MULTILINE)
    assert re.search(r"files that differ\n.*── mmtrain/nn/infonce.py: ", outcome.out)
    assert "not equal: 0 recorded steps" in outcome.out
    assert len(rows(run.with_name("clip_emoji-reproduced"))) < len(rows(run))

    outcome = said_by(["reproduce", str(run), "--at", "HEAD", "--steps", "5"], tmp_path / "at.log", **there)
    assert outcome.status == 0, outcome.out
    assert f"code of commit {git(copied, 'rev-parse', 'HEAD')}\n" in outcome.out
    assert "equal: 5 recorded steps" in outcome.out
    assert "infonce.py" not in outcome.out
    assert len(git(copied, "worktree", "list").splitlines()) == 1


@pytest.mark.slow
def test_a_data_set_with_one_other_shard_is_not_trained_on_and_the_shard_is_named(
    program: Program, shapes: Path, tmp_path: Path, run: Path
) -> None:
    data = Path(shutil.copytree(shapes, tmp_path / "data"))
    (data / "train" / "train-000001.tar").write_bytes((shapes / "train" / "train-000000.tar").read_bytes())
    index_shards(data / "train", force=True)
    outcome = program("reproduce", run, f"data.root={data}")
    assert outcome.status == 1
    assert "the data are not those of then" in outcome.out
    assert re.search(r'shards of train\n\s+└── train-000001.tar: "\w{12}" -> "\w{12}"$', outcome.out, re.MULTILINE)


@pytest.mark.slow
def test_a_shard_in_which_a_byte_was_changed_is_named(
    program: Program, shapes: Path, tmp_path: Path, run: Path
) -> None:
    data = Path(shutil.copytree(shapes, tmp_path / "data"))
    shard = data / "train" / "train-000001.tar"
    shard.write_bytes(shard.read_bytes().replace(b"IHDR", b"IHDS"))
    os.utime(shard, ns=(0, 0))
    outcome = program("reproduce", run, f"data.root={data}")
    assert outcome.status == 1
    assert re.search(r"the new run failed after \d+ recorded steps that were the same:\nerror: ", outcome.out)
    assert str(shard) in outcome.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "RUN/again"], "the new run would lie in the old one"),
        (["--out", "RUN"], "the new run would lie in the old one"),
        (["--out", "RUN/../taken"], "there is something already"),
        (["--steps", "99"], "the run recorded 20 steps, and 99 are to be compared"),
        (["optim.lr=1"], "with another optim.lr it is another run"),
        (["--at", "nothing"], "the repository has no commit 'nothing'"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_is_written(
    program: Program, tmp_path: Path, arguments: list[str], message: str
) -> None:
    manifest = replace(MANIFEST, total_steps=20, segments=[replace(SEGMENT, to_step=20)])
    run = write_recorded(tmp_path / "runs" / "a", manifest, [{"step": n, "train/loss": 1.0} for n in range(1, 21)])
    (tmp_path / "runs" / "taken" / "x").mkdir(parents=True)
    before = content(tmp_path)
    outcome = program("reproduce", run, *(argument.replace("RUN", str(run)) for argument in arguments))
    assert outcome.status == 1
    assert message in outcome.err
    assert content(tmp_path) == before
