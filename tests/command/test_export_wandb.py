"""``export --wandb``: the folder becomes an artifact, of a W&B run of its own, and no file is copied."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import wandb
import yaml
from gloo_ranks import run_in
from stored_runs import VIT_CLASSIFIER, write_run
from tiny_run import Program
from wandb_file import contents, of_kind, records, segment_of

from mmtrain.__main__ import main


def write_logged(run: Path, logger: dict[str, Any]) -> None:
    """A run whose config names loggers."""
    write_run(run, VIT_CLASSIFIER)
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(config | {"logger": logger}))


def export_at(home: Path) -> int:
    os.environ |= {"HOME": str(home), "WANDB_MODE": "offline"}
    try:
        return main(["export", str(home / "toy"), "--to", "safetensors", "--wandb"])
    finally:
        wandb.teardown()


def test_an_export_is_an_artifact_that_names_its_checkpoint(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    run = tmp_path / "toy"
    write_logged(run, {"wandb": {"project": "p", "group": "sweep", "tags": ["a"]}})
    assert run_in(tmp_path_factory.mktemp("ranks"), 1, export_at, (tmp_path,)) == [0]
    found = records(segment_of(run / "export"))
    (started,) = of_kind(found, "run")
    assert [started[key] for key in ("project", "run_group", "job_type", "tags", "display_name")] == [
        "p",
        "sweep",
        "export",
        ["a"],
        "toy export",
    ]
    (artifact,) = of_kind(found, "artifact")
    assert artifact["name"] == f"export-{(run / 'wandb_id').read_text().strip()}" and "step-7" in artifact["aliases"]
    record = json.loads((run / "checkpoints" / "step_00000007.json").read_text())
    facts = json.loads(artifact["metadata"])
    assert (facts["run"], facts["form"], facts["step"], facts["xxh3"]) == ("toy", "safetensors", 7, record["xxh3"])
    folder = run / "export" / "safetensors-step_00000007"
    places = {path: Path(entry["local_path"]) for path, entry in contents(artifact).items()}
    assert places == {path.name: path for path in folder.iterdir()} and "README.md" in places
    assert not [path for path in tmp_path.rglob("*.safetensors") if not path.is_relative_to(folder)]


def test_a_run_without_wandb_is_not_exported_to_it(program: Program, tmp_path: Path) -> None:
    write_logged(tmp_path / "toy", {})
    outcome = program("export", tmp_path / "toy", "--to", "safetensors", "--wandb")
    assert outcome.status == 1 and "leave out --wandb" in outcome.err
    assert not (tmp_path / "toy" / "export").exists()
