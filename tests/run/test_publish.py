"""W&B is given the manifest as it ends, and checkpoints that will stay, by the hashes of their records."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch.loggers.logger import Logger
from recorded_runs import CONFIG, MANIFEST, ended, write_recorded
from tiny_run import STEPS
from wandb_file import contents, of_kind, records, segment_of

from mmtrain.callback.checkpoint_io import CheckpointRecord, checkpoint_path, seal, write_json
from mmtrain.logger.base import Evidence
from mmtrain.logger.jsonl import JsonlLogger
from mmtrain.run.manifest import read_manifest
from mmtrain.run.publish import gather_evidence, published


def write_checkpoint(run: Path, step: int, *parts: str) -> CheckpointRecord:
    path = checkpoint_path(run / "checkpoints", step)
    partial = path.with_name("partial")
    path.parent.mkdir(exist_ok=True)
    if parts:
        partial.mkdir()
        for name in parts:
            (partial / name).write_text(f"{name} {step}")
    else:
        torch.save({"step": step}, partial)
    return seal(partial, path, step=step, metrics={"eval/a": 1 / step})


def test_of_a_finished_run_the_best_and_the_newest_checkpoint_are_evidence(tmp_path: Path) -> None:
    run = write_recorded(tmp_path / "run")
    first, _, last = write_checkpoint(run, 2, "a.bin"), write_checkpoint(run, 3), write_checkpoint(run, 4)
    write_json(run / "checkpoints" / "best.json", {"file": first.file, "step": 2, "monitor": "eval/a"})
    best, newest = gather_evidence(run).checkpoints
    assert (best.path.name, best.xxh3, best.is_best, best.weights_sha256) == (first.file, first.xxh3, True, None)
    assert best.parts == {"a.bin": first.parts["a.bin"][1]} and best.metrics == {"eval/a": 0.5}
    assert (newest.path.name, newest.xxh3, newest.is_best) == (last.file, last.xxh3, False)
    assert (newest.step, newest.bytes, newest.weights_sha256) == (
        4,
        newest.path.stat().st_size,
        MANIFEST.weights_sha256,
    )


@pytest.mark.parametrize("reason", ["preempted", "failed: of something"])
def test_checkpoints_that_a_run_will_delete_are_none(tmp_path: Path, reason: str) -> None:
    run = write_recorded(tmp_path / "run", ended(reason))
    write_checkpoint(run, 4)
    evidence = gather_evidence(run)
    assert not evidence.checkpoints
    assert json.loads(evidence.texts["manifest.json"])["segments"][0]["reason"] == reason
    assert yaml.safe_load(evidence.texts["config.yaml"]) == CONFIG


def test_a_damaged_manifest_is_no_evidence_and_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "manifest.json").write_text("{")
    with caplog.at_level(logging.WARNING):
        assert gather_evidence(tmp_path) == Evidence({}, ())
    assert "damaged" in caplog.text


class Archive(JsonlLogger):
    """A logger that takes evidence."""

    said: list[str]

    def stay_open(self) -> None:
        self.said = ["stays open"]

    def close(self, evidence: Evidence) -> None:
        self.said += evidence.texts


def fail_after(fine: bool) -> None:
    raise ValueError("a mistake" if fine else "it was closed before")


def test_evidence_comes_at_the_end_also_of_a_run_that_fails(tmp_path: Path) -> None:
    run = write_recorded(tmp_path / "run")
    archive = Archive(run)
    loggers: list[Logger] = [JsonlLogger(run), archive]
    with pytest.raises(ValueError, match="mistake"), published(loggers, run):
        fail_after(archive.said == ["stays open"])
    assert archive.said == ["stays open", "config.yaml", "manifest.json"]


@pytest.mark.slow
def test_a_real_runs_artifacts_are_its_complete_manifest_and_its_checkpoints(finished: Path) -> None:
    artifacts = of_kind(records(segment_of(finished)), "artifact")
    (evidence,) = [artifact for artifact in artifacts if artifact["type"] == "evidence"]
    checkpoints = [artifact for artifact in artifacts if artifact["type"] == "model"]
    for name, entry in contents(evidence).items():
        place = Path(entry["local_path"])
        if name == "manifest.json":
            assert place.read_bytes() == (finished / name).read_bytes()
            assert json.loads(place.read_text())["segments"][0]["reason"] == "finished"
        else:
            assert yaml.safe_load(place.read_text()) == yaml.safe_load((finished / name).read_text())
    manifest = read_manifest(finished)
    assert manifest is not None
    newest = checkpoints[-1]
    ((path, entry),) = contents(newest).items()
    record = json.loads((finished / "checkpoints" / f"step_{STEPS:08d}.json").read_text())
    assert (path, entry["extra"]["xxh3"], int(entry["size"])) == (record["file"], record["xxh3"], record["bytes"])
    facts = json.loads(newest["metadata"])
    assert (facts["step"], facts["weights_sha256"]) == (STEPS, manifest.weights_sha256)
    assert any("best" in checkpoint["aliases"] for checkpoint in checkpoints)
