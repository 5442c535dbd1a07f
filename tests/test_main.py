"""The command line: every mistake of a user ends with status 1, no traceback, the place and the mend."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_run import Program, finish, start, tiny

from mmtrain.data.sources.emoji_concepts import ARCHIVES


def refusal(program: Program, *arguments: object) -> str:
    """What the program says where it refuses to start."""
    outcome = program(*arguments)
    assert outcome.status == 1
    assert outcome.err.startswith("error: ")
    assert "Traceback" not in outcome.err
    return outcome.err


def test_a_process_ends_with_status_1_and_no_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mmtrain", "experiment=clip_emoji", "model.lrr=1", "+modle=a"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120)
    assert done.returncode == 1
    assert done.stderr.startswith("error: 2 mistakes in the configuration")
    assert "- model.lrr: unknown key" in done.stderr
    assert "where: override model.lrr=1" in done.stderr
    assert "- modle: unknown key\n    where: override +modle=a\n    mend:  did you mean 'model'?" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["optim.lrr=1"], ["optim.lrr", "where: override optim.lrr=1", "did you mean 'lr'?"]),
        (["data.num_worker=1"], ["where: override data.num_worker=1", "did you mean 'num_workers'?"]),
        (["trainer.device=2"], ["where: override trainer.device=2", "did you mean 'devices'?"]),
        (["optim.lr='1e-3'"], ["'1e-3' (str)", "where: override optim.lr='1e-3'", "mend:  write 0.001"]),
        (["data.num_workers=two"], ["'two' (str)", "where: override data.num_workers=two"]),
        (["data.source=3"], ["data.source", "where: override data.source=3"]),
        (["optim=adam"], ["adam", "did you mean 'adamw'?"]),
        (
            ["trainer.devices=3"],
            ["does not divide over 3 ranks", "data.global_batch_size: 126 or 129", "ranks: 2 or 4"],
        ),
        (["data.micro_batch_size=48"], ["micro_batch_size 48", "data.micro_batch_size: 32 or 64"]),
        (["seed=1,2"], ["several values", "where: override seed=1,2"]),
    ],
)
def test_a_mistake_names_its_place_and_the_nearest_valid(
    program: Program, overrides: list[str], expected: list[str], tmp_path: Path
) -> None:
    said = refusal(program, "experiment=clip_emoji", f"run.dir={tmp_path / 'run'}", *overrides)
    for part in expected:
        assert part in said
    assert not (tmp_path / "run").exists(), "a mistake is told before anything is made"


def test_a_typo_in_an_experiment_of_ones_own_names_file_and_line(program: Program, tmp_path: Path) -> None:
    own = tmp_path / "mine" / "experiment" / "own.yaml"
    own.parent.mkdir(parents=True)
    own.write_text(
        "# @package _global_\nname: own\nbudget: {epochs: 1}\ndata:\n  train: a.tar\n  global_batch_sise: 8\n"
    )
    said = refusal(program, "experiment=own", "--config-dir", tmp_path / "mine")
    assert "data.global_batch_sise: unknown key" in said
    assert "own.yaml:6" in said
    assert "did you mean 'global_batch_size'?" in said


def test_an_unknown_experiment_names_the_nearest(program: Program) -> None:
    assert "did you mean 'clip_emoji'?" in refusal(program, "experiment=clip_emojy")


def test_a_missing_mandatory_value_is_named(program: Program) -> None:
    said = refusal(program, "experiment=clip_base")
    assert "data.train" in said
    assert "image_text.yaml:" in said


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["trian"], ["unknown command 'trian'", "did you mean 'train'?"]),
        (["--fresh"], ["unknown option '--fresh'"]),
        (["show", "experiment=clip_emoji", "--config-dir"], ["--config-dir needs a directory"]),
        (["show", "experiment=clip_emoji", "--config-dir=/no/such"], ["/no/such does not exist"]),
        (["resume"], ["resume needs a run"]),
        (["resume", "--help"], ["resume needs a run"]),
        (["eval", "experiment=clip_emoji"], ["eval needs a run"]),
        (["eval", "runs/nothing"], ["there is no checkpoint", "runs/nothing/checkpoints"]),
        (["eval", "runs/nothing/checkpoints/step_00000001.ckpt"], ["it does not exist"]),
        (["resume", "runs/nothing"], ["this is not the directory of a run", "runs/nothing/origin.json"]),
        (["resume", "runs/lr=1"], ["resume needs a run"]),
        (["data", "prepare", "emojy"], ["data has no option 'emojy'", "did you mean 'emoji'?"]),
    ],
)
def test_a_wrong_command_says_what_is_right(
    program: Program, arguments: list[str], expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = refusal(program, *arguments)
    for part in expected:
        assert part in said


def test_a_run_may_bear_the_name_of_an_override(program: Program, tmp_path: Path) -> None:
    (tmp_path / "lr=1").mkdir()
    assert "this is not the directory of a run" in refusal(program, "resume", tmp_path / "lr=1")


@pytest.mark.parametrize(("arguments", "status"), [([], 2), (["--help"], 0), (["help"], 0)])
def test_usage_is_shown(program: Program, arguments: list[str], status: int) -> None:
    outcome = program(*arguments)
    assert outcome.status == status
    assert outcome.out.startswith("usage: python -m mmtrain [VERB]")


def test_a_run_directory_that_cannot_be_written_is_told_before_the_data_is_fetched(
    program: Program, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMTRAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    (tmp_path / "file").touch()
    said = refusal(program, *tiny(shapes, tmp_path / "file" / "run"))
    assert "the run directory cannot be written: Not a directory" in said
    assert f"where: {tmp_path / 'file' / 'run'}" in said
    assert "run.dir=" in said


def test_an_archive_that_cannot_be_downloaded_names_the_mend(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMTRAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    said = refusal(program, "data", "prepare", "emoji", "--root", tmp_path / "emoji")
    assert "pip could not download" in said
    assert f"and put the file into {tmp_path / 'cache'}" in said
    assert not (tmp_path / "emoji").exists()


def test_a_corrupt_archive_names_both_hashes(program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMTRAIN_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    for archive in ARCHIVES:
        (tmp_path / f"{archive.name.replace('-', '_')}-{archive.version}-py3-none-any.whl").write_bytes(b"damaged")
    said = refusal(program, "data", "prepare", "emoji", "--root", tmp_path / "emoji")
    assert any(f"expected sha256 {archive.sha256}" in said for archive in ARCHIVES)
    assert f"found {hashlib.sha256(b'damaged').hexdigest()}" in said
    assert "delete the file and run again" in said


@pytest.mark.slow
def test_a_killed_preparation_leaves_nothing_and_the_next_one_completes(program: Program, tmp_path: Path) -> None:
    root, log = tmp_path / "emoji", tmp_path / "said.log"
    process = start(["data", "prepare", "emoji", "--root", str(root)], log)
    while process.poll() is None and not any(tmp_path.glob("emoji.tmp-*")):
        time.sleep(0.01)
    time.sleep(2)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, log.read_text()
    assert not root.exists()
    assert "cannot" not in finish(start(["data", "prepare", "emoji", "--root", str(root)], log), log)
    assert not any(tmp_path.glob("emoji.tmp-*"))
    assert program("data", "inspect", root, "--verify").status == 0
