"""What W&B is given at the end of a run, what it takes by itself, and what it must never get."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import wandb
from gloo_ranks import run_in
from wandb_file import Record, contents, of_kind, records, segment_of

from mmtrain.logger.base import Evidence, StoredCheckpoint
from mmtrain.logger.wandb import WandbLogger

SECRET = "hunter2"
BYTES = 1 << 22
CONFIG = {"lr": 0.1, "x": {"api_key": SECRET, "url": f"https://me:{SECRET}@host/x"}}


def log_a_run(home: Path) -> None:
    """A run as the program logs it, in a process of its own."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        del os.environ[name]
    os.environ |= {"HOME": str(home), "WANDB_API_KEY": SECRET * 6, "AWS_SECRET_ACCESS_KEY": SECRET}
    os.environ |= {"WANDB_SAVE_CODE": "true", "WANDB_PROGRAM": "train.py"}
    os.chdir(home)
    sys.argv = ["train.py", "--api-key", SECRET, f"+logger.x.api_key={SECRET}"]
    run = Path("run")
    logger = WandbLogger(run, CONFIG, group="sweep")
    logger.stay_open()
    logger.log_metrics({"train/loss": 1.0}, step=1)
    logger.alert("Steps skipped", "one", "WARN")
    logger.log_histogram("histogram/gradient/w", [1, 2], [0.0, 0.5, 1.0], step=1)
    logger.finalize("success")
    known: dict[str, Any] = {"metrics": {"eval/top1": 0.5}, "bytes": BYTES, "xxh3": "aa"}
    folder = StoredCheckpoint(run / "step_4.ckpt", 4, parts={"a.bin": "bb"}, weights_sha256=None, is_best=True, **known)
    file = StoredCheckpoint(run / "step_8.ckpt", 8, parts={}, weights_sha256="cc", is_best=False, **known)
    logger.close(Evidence({"config.yaml": "lr: 0.1\n", "manifest.json": "{}"}, [folder, file]))
    wandb.teardown()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home and working directory of a run, where secrets stand wherever W&B might look for something."""
    home = tmp_path_factory.mktemp("home")
    git = ["git", "-c", "user.name=a", "-c", f"user.email={SECRET}@b", "-c", "init.defaultBranch=main"]
    for command in (
        ["init", "--quiet"],
        ["remote", "add", "origin", f"https://{SECRET}@example.org/x.git"],
        ["commit", "--quiet", "--allow-empty", "-m", SECRET],
    ):
        subprocess.run([*git, *command], cwd=home, check=True)
    (home / "train.py").write_text(f"password = '{SECRET}'\n")
    (home / "run" / "step_4.ckpt").mkdir(parents=True)
    for name in ("step_4.ckpt/a.bin", "step_8.ckpt"):
        (home / "run" / name).write_bytes(bytes(BYTES))
    run_in(tmp_path_factory.mktemp("ranks"), 1, log_a_run, (home,))
    return home


@pytest.fixture(scope="module")
def found(home: Path) -> list[Record]:
    """All records of the run."""
    return records(segment_of(home / "run"))


def test_no_secret_is_in_any_file_of_wandb(home: Path) -> None:
    caches = [path for path in home.iterdir() if path.name.startswith(".") and path.name != ".git"]
    files = [file for folder in (home / "run" / "wandb", *caches) for file in folder.rglob("*") if file.is_file()]
    assert any(file.suffix == ".wandb" and b"train/loss" in file.read_bytes() for file in files), "and it would be seen"
    assert not [file for file in files if SECRET.encode() in file.read_bytes()]


def test_wandb_collects_neither_command_line_nor_code_nor_git(found: list[Record]) -> None:
    assert not of_kind(found, "environment")
    (started,) = of_kind(found, "run")
    assert "git" not in started
    saved = {file["path"] for record in of_kind(found, "files") for file in record["files"]}
    assert saved <= {"requirements.txt"}


def test_a_run_bears_the_group_of_its_sweep_and_its_job_type(found: list[Record]) -> None:
    (started,) = of_kind(found, "run")
    assert (started["run_group"], started["job_type"]) == ("sweep", "train")


def test_config_and_manifest_are_an_artifact_whose_files_lie_in_the_run_directory(
    home: Path, found: list[Record]
) -> None:
    evidence = of_kind(found, "artifact")[0]
    assert (evidence["type"], evidence["name"]) == ("evidence", f"evidence-{run_id(home)}")
    places = {path: Path(entry["local_path"]) for path, entry in contents(evidence).items()}
    assert {path: place.read_text() for path, place in places.items()} == {
        "config.yaml": "lr: 0.1\n",
        "manifest.json": "{}",
    }
    assert all(place.is_relative_to(home / "run" / "wandb") for place in places.values())


def test_checkpoints_are_artifacts_by_place_and_hash(home: Path, found: list[Record]) -> None:
    best, newest = of_kind(found, "artifact")[1:]
    assert {best["name"], newest["name"]} == {f"checkpoint-{run_id(home)}"}
    assert (set(best["aliases"]), set(newest["aliases"])) == ({"step-4", "best", "latest"}, {"step-8", "latest"})
    assert hashes(best) == {"step_4.ckpt/a.bin": "bb"}
    assert hashes(newest) == {"step_8.ckpt": "aa"}
    (entry,) = newest["manifest"]["contents"]
    assert entry["ref"] == (home / "run" / "step_8.ckpt").as_uri() and entry["size"] == str(BYTES)
    facts = json.loads(newest["metadata"])
    assert (facts["run"], facts["step"], facts["xxh3"], facts["weights_sha256"]) == ("run", 8, "aa", "cc")
    assert facts["metrics"] == {"eval/top1": 0.5}


def test_no_weights_are_copied(home: Path) -> None:
    folders = [home / "run" / "wandb", *(path for path in home.iterdir() if path.name.startswith("."))]
    sizes = [file.stat().st_size for folder in folders for file in folder.rglob("*") if file.is_file()]
    assert sum(sizes) < BYTES / 2


def test_an_alert_and_a_histogram_are_recorded(found: list[Record]) -> None:
    (alert,) = of_kind(found, "alert")
    assert (alert["title"], alert["text"], alert["level"]) == ("Steps skipped", "one", "WARN")
    (row,) = [record["item"] for record in of_kind(found, "history")]
    key = "histogram/gradient/w"
    assert (row[f"{key}.values"], row[f"{key}.bins"], row[f"{key}._type"]) == ([1, 2], [0.0, 0.5, 1.0], "histogram")


def test_a_run_that_ended_well_is_said_to(found: list[Record]) -> None:
    (end,) = of_kind(found, "exit")
    assert end.get("exit_code", 0) == 0


def hashes(artifact: dict[str, Any]) -> dict[str, str]:
    """The xxh3 of each file."""
    return {path: entry["extra"]["xxh3"] for path, entry in contents(artifact).items()}


def run_id(home: Path) -> str:
    return (home / "run" / "wandb_id").read_text().strip()
