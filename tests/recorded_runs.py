"""Directories of runs with a manifest and metrics, as training leaves them, without the training."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from mmtrain.run.code_state import CodeState, Repository
from mmtrain.run.data_record import DataRecord
from mmtrain.run.environment import Environment, Node
from mmtrain.run.git_state import GitState
from mmtrain.run.manifest import Best, Manifest, Segment, write_manifest
from mmtrain.run.source_tree import SourceTree, json_sha256

CONFIG: dict[str, Any] = {
    "name": "toy",
    "seed": 0,
    "run": {"dir": "runs/toy", "fresh": False},
    "trainer": {"accelerator": "auto", "devices": 1, "num_nodes": 1, "threads": None, "precision": "auto"},
    "data": {"root": "data/toy", "micro_batch_size": None},
    "optim": {"lr": 1e-3},
    "callback": {"progress": {"_target_": "x.Y"}, "guard": {"window": 1}},
    "logger": {"wandb": {"project": "p"}},
}

SEGMENT = Segment(
    started_at="2026-01-02T03:04:05+00:00",
    host="node1",
    command=["python", "-m", "mmtrain"],
    overrides=["experiment=toy"],
    cwd="/home/me",
    job=None,
    config_sha256=json_sha256(CONFIG),
    commit="c" * 40,
    code="code0",
    packages="packages0",
    environment="environment0",
    from_step=0,
    world_size=1,
    strategy="SingleDeviceStrategy",
    precision="32-true",
    threads=2,
    ended_at="2026-01-02T04:04:05+00:00",
    to_step=4,
    reason="finished",
)

TREE = SourceTree({"a.py": "a" * 64, "b.py": "b" * 64}, "t" * 64)
GIT = GitState("/src", "c" * 40, "main", None, False)
CODE = CodeState("0.1.0", {"mmtrain": TREE}, {"mmtrain": Repository(GIT)})
ENVIRONMENT = Environment(
    python="3.11.7", torch="2.13.0", cuda=None, cudnn=None, nccl=None, driver=None, host="node1", os="Linux",
    cpu="EPYC", cpu_instructions="AVX2", cores=8, cores_allowed=4, memory_bytes=1 << 34, launcher="mmtrain",
    variables={"OMP_NUM_THREADS": "1"}, nodes=[Node("node1", 1, "cpu")],
)  # fmt: skip

MANIFEST = Manifest(
    schema=1,
    mmtrain="0.1.0",
    name="toy",
    total_steps=4,
    segments=[SEGMENT],
    best=Best("eval/x/top1", 2, {"eval/x/top1": 0.5, "eval/x/loss": 1.5}),
    final={"train/loss": 0.25, "eval/x/top1": 0.25, "throughput/samples_per_second": 100.0},
    weights_sha256="w" * 64,
    config=CONFIG,
    config_sha256=json_sha256(CONFIG),
    seed=0,
    rng_policy="none",
    data=DataRecord({"train": "f" * 64, "tokenizer": "k" * 64}),
    code={"code0": CODE},
    packages={"packages0": {"torch": "2.13.0", "numpy": "2.1"}},
    environments={"environment0": ENVIRONMENT},
    shards={"train": {"0.tar": "0" * 64, "1.tar": "1" * 64}},
)

ROWS = [{"step": step, "train/loss": 1 / step, "throughput/samples_per_second": 100.0} for step in range(1, 5)]


def write_recorded(
    run: Path,
    manifest: Manifest | None = MANIFEST,
    rows: Iterable[Mapping[str, Any]] = ROWS,
    *,
    marks: Iterable[str] = ("DONE", "lock"),
) -> Path:
    """Writes a run; without a manifest it is one of before there were any."""
    run.mkdir(parents=True)
    (run / "origin.json").write_text(json.dumps({"overrides": ["experiment=toy"], "config_dirs": []}))
    (run / "config.yaml").write_text(yaml.safe_dump(CONFIG if manifest is None else manifest.config))
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for mark in marks:
        (run / mark).touch()
    if manifest is not None:
        write_manifest(run, manifest)
    return run


def ended(reason: str | None, to_step: int | None = 4, **changes: Any) -> Manifest:
    """A manifest whose only segment ended so."""
    newest = replace(SEGMENT, reason=reason, to_step=to_step, **changes)
    return replace(MANIFEST, segments=[newest], weights_sha256=None)
