"""The manifest of real runs: finished, preempted, killed, failed, of two ranks, and where it cannot be written."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny_run import STEPS, Program, finish, last_checkpoint, rows, start, tiny, wait_for_step

import mmtrain
from mmtrain.config import Composed
from mmtrain.data.shards.manifest import load_manifest
from mmtrain.errors import ConfigError
from mmtrain.logger.wandb import WandbLogger
from mmtrain.run.manifest import Manifest, read_manifest
from mmtrain.run.recording import recorded
from mmtrain.run.source_tree import json_sha256
from mmtrain.run.weights_hash import weights_sha256

SHORT = "budget.samples=160"
CONFIG: dict[str, Any] = {
    "name": "toy",
    "seed": 3,
    "callback": {},
    "logger": {"x": {"api_key": "hunter2", "url": "https://me:hunter2@host/x"}},
    "data": {},
}


def manifest_of(run: Path) -> Manifest:
    manifest = read_manifest(run)
    assert manifest is not None
    return manifest


def composed(*overrides: str) -> Composed:
    return Composed(CONFIG, {}, overrides, {})


def test_a_finished_run_has_recorded_what_it_was(program: Program, shapes: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = tiny(shapes, run, SHORT)
    assert program(*arguments).status == 0
    manifest = manifest_of(run)
    (segment,) = manifest.segments
    assert (segment.reason, segment.from_step, segment.to_step, manifest.total_steps) == ("finished", 0, 10, 10)
    assert datetime.fromisoformat(segment.started_at) <= datetime.fromisoformat(str(segment.ended_at))
    assert (segment.world_size, segment.precision, segment.threads) == (1, "32-true", 1)
    assert segment.overrides == arguments
    assert segment.cwd == os.getcwd()
    assert manifest.config == yaml.safe_load((run / "config.yaml").read_text())
    assert manifest.config_sha256 == segment.config_sha256 == json_sha256(manifest.config)
    assert manifest.seed == 0
    names = {"train", "eval/new_style", "eval/new_concept"}
    assert manifest.data.fingerprints.keys() == names | {"tokenizer"}
    for name in names:
        data_set = load_manifest(shapes / name.removeprefix("eval/") / "manifest.json")
        assert manifest.data.fingerprints[name] == data_set.fingerprint
        assert manifest.shards[name] == {shard.name: shard.sha256 for shard in data_set.shards}
    source = Path(mmtrain.__file__).with_name("distributed.py")
    files = manifest.code[segment.code].packages["mmtrain"].files
    assert files["distributed.py"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert manifest.packages[segment.packages]["torch"] == str(torch.__version__)
    assert [node.ranks for node in manifest.environments[segment.environment].nodes] == [1]
    assert list(manifest.environments) == [segment.environment]


def test_a_finished_run_has_recorded_what_came_out(program: Program, shapes: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert program(*tiny(shapes, run, SHORT)).status == 0
    manifest = manifest_of(run)
    last: dict[str, float] = {}
    for row in rows(run):
        last |= row
    assert manifest.final == {name: value for name, value in last.items() if "/" in name}
    evaluated = [row for row in rows(run) if "eval/new_style/top5" in row]
    best = max(evaluated, key=lambda row: row["eval/new_style/top5"])
    assert manifest.best is not None
    assert (manifest.best.monitor, manifest.best.step) == ("eval/new_style/top5", best["step"])
    assert manifest.weights_sha256 == weights_sha256(last_checkpoint(run)["state_dict"])


def test_nothing_left_to_train_adds_a_segment_and_keeps_what_came_out(
    program: Program, shapes: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert program(*tiny(shapes, run, SHORT)).status == 0
    before = manifest_of(run)
    assert program("resume", run, "data.num_workers=1").status == 0
    after = manifest_of(run)
    assert [segment.reason for segment in after.segments] == ["finished", "finished"]
    assert (after.segments[1].from_step, after.segments[1].to_step) == (10, 10)
    assert after.weights_sha256 == before.weights_sha256
    assert (after.data, after.shards) == (before.data, before.shards)
    assert after.config["data"]["num_workers"] == 1
    assert after.as_of(0).config == before.config


@pytest.mark.slow
def test_a_run_that_was_preempted_killed_and_resumed_has_all_of_its_history(
    program: Program, shapes: Path, tmp_path: Path
) -> None:
    run, log = tmp_path / "run", tmp_path / "said.log"
    process = start(tiny(shapes, run), log)
    wait_for_step(run, 10, process, log)
    process.send_signal(signal.SIGTERM)
    finish(process, log)
    first = manifest_of(run)
    assert first.newest.reason == "preempted"
    assert first.newest.to_step == int((run / "REQUEUE").read_text())
    assert first.weights_sha256 is None

    process = start(["resume", str(run)], log)
    wait_for_step(run, 30, process, log)
    process.kill()
    process.wait()
    assert manifest_of(run).newest.reason is None
    killed_at = rows(run)[-1]["step"]

    assert program("resume", run).status == 0
    manifest = manifest_of(run)
    assert [segment.reason for segment in manifest.segments] == ["preempted", "killed", "finished"]
    one, two, three = manifest.segments
    assert (one.from_step, one.to_step, two.from_step) == (0, first.newest.to_step, first.newest.to_step)
    assert two.to_step == killed_at
    assert three.from_step is not None and two.from_step is not None
    assert two.from_step < three.from_step <= killed_at and three.to_step == STEPS
    assert manifest.weights_sha256 == weights_sha256(last_checkpoint(run)["state_dict"])
    assert manifest.data == first.data and manifest.shards == first.shards


@pytest.mark.slow
def test_two_ranks_write_one_manifest_that_knows_both(shapes: Path, tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "said.log"
    finish(start(tiny(shapes, run, SHORT, "trainer.devices=2", "strategy=ddp"), log), log)
    manifest = manifest_of(run)
    (segment,) = manifest.segments
    assert (segment.world_size, segment.strategy, segment.reason) == (2, "DDPStrategy", "finished")
    assert [node.ranks for node in manifest.environments[segment.environment].nodes] == [2]
    assert manifest.weights_sha256 == weights_sha256(last_checkpoint(run)["state_dict"])


def test_a_run_trains_where_neither_manifest_nor_patch_can_be_written(
    program: Program, shapes: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    for name in (".manifest.json.partial", ".diff.patch.partial"):
        (run / name).mkdir(parents=True)
    outcome = program(*tiny(shapes, run, SHORT))
    assert outcome.status == 0
    assert "the manifest was not written: " in outcome.err
    assert (run / "DONE").exists() and not (run / "manifest.json").exists()


def test_a_full_disk_costs_the_manifest_and_not_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / ".manifest.json.partial").symlink_to("/dev/full")
    with recorded(tmp_path, composed(), []):
        assert "No space left on device" in caplog.text
        assert not (tmp_path / "manifest.json").exists()
    assert manifest_of(tmp_path).newest.reason is not None, "there was room again"


def test_a_failure_is_recorded_and_goes_on_its_way(tmp_path: Path) -> None:
    def fail() -> None:
        with recorded(tmp_path, composed(), []) as recording:
            recording.plan(3, 9, None)
            raise ConfigError("too large for\nhttps://me:hunter2@host", where="data")

    with pytest.raises(ConfigError, match="too large"):
        fail()
    newest = manifest_of(tmp_path).newest
    assert (newest.reason, newest.from_step, newest.to_step) == ("failed: ConfigError: too large for", 3, 3)
    assert newest.ended_at is not None


def test_ctrl_c_is_no_failure_of_a_program_and_an_end_before_the_plan_has_no_step(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), recorded(tmp_path, composed(), []):
        raise KeyboardInterrupt
    newest = manifest_of(tmp_path).newest
    assert (newest.reason, newest.from_step, newest.to_step) == ("failed: interrupted", None, None)


def test_a_segment_that_left_no_end_was_killed_at_its_last_row(tmp_path: Path) -> None:
    with recorded(tmp_path, composed(), []) as recording:
        recording.plan(0, 9, None)
        (tmp_path / "manifest.json").rename(tmp_path / "kept")
    (tmp_path / "kept").rename(tmp_path / "manifest.json")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 7}\n{"st')
    with recorded(tmp_path, composed(), []):
        pass
    first, second = manifest_of(tmp_path).segments
    assert (first.reason, first.to_step, first.ended_at) == ("killed", 7, None)
    assert second.reason == "failed: it stopped before its last step"


def test_nothing_secret_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "hunter2")
    monkeypatch.setenv("NCCL_TOKEN", "hunter2")
    monkeypatch.setattr(
        "sys.orig_argv", ["python", "-m", "mmtrain", "--api-key", "hunter2", "+logger.x.api_key=hunter2"]
    )
    overrides = ("+logger.x.api_key=hunter2", "+logger.x={url: 'https://me:hunter2@host/x', password: hunter2}")
    with pytest.raises(ValueError, match="hunter2"), recorded(tmp_path, composed(*overrides), []):
        raise ValueError("cannot open s3://hunter2@bucket/x?X-Amz-Signature=hunter2 now")
    text = (tmp_path / "manifest.json").read_text()
    assert "hunter2" not in text
    content = json.loads(text)
    assert content["config"]["logger"]["x"] == {"api_key": "***", "url": "https://host/x"}
    assert content["segments"][0]["command"][3:] == ["--api-key", "***", "+logger.x.api_key=***"]
    assert content["segments"][0]["reason"] == "failed: ValueError: cannot open s3://bucket/x?X-Amz-Signature=*** now"


def test_wandb_is_given_no_secret(tmp_path: Path) -> None:
    logger = WandbLogger(tmp_path, CONFIG, 0, project="p")
    assert logger.config["logger"]["x"] == {"api_key": "***", "url": "https://host/x"}
    assert CONFIG["logger"]["x"]["api_key"] == "hunter2"
