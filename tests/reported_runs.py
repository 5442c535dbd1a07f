"""Runs and sweeps to report on, as the program leaves their directories, without the training."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mmtrain.logger.jsonl import JsonlLogger
from mmtrain.run.code_state import CodeState
from mmtrain.run.data_record import DataRecord
from mmtrain.run.environment import Environment, Node
from mmtrain.run.manifest import Best, Manifest, Segment, write_manifest
from mmtrain.run.origin import Origin, write_origin
from mmtrain.run.source_tree import SourceTree
from mmtrain.run.sweep.grid import value_text
from mmtrain.run.sweep.plan import Element, Sweep, write_base, write_plan

METRIC = "eval/val/accuracy"
LOSS = "train/loss"
Curves = Mapping[str, Sequence[float]]
BEGIN, END = "2026-01-01T00:00:00+00:00", "2026-01-01T00:01:00+00:00"
ENVIRONMENT = Environment(
    python="3.11", torch="2.13", cuda=None, cudnn=None, nccl=None, driver=None, host="node1", os="Linux", cpu="A CPU",
    cpu_instructions="AVX2", cores=8, cores_allowed=8, memory_bytes=1 << 34, launcher="mmtrain", variables={},
    nodes=[Node("node1", 1, "cpu")],
)  # fmt: skip


def config_of(name: str, seed: int, lr: float, **more: Any) -> dict[str, Any]:
    """A config of few keys; ``more`` by dotted key, ``__`` for the dots."""
    config: dict[str, Any] = {
        "name": name,
        "seed": seed,
        "optim": {"_target_": "mmtrain.optim.adamw.AdamW", "lr": lr},
        "model": {"_target_": "mmtrain.model.vit.ViT", "d_model": 64},
        "data": {"root": "data", "mix": 0.5},
        "callback": {"checkpoint": {"monitor": METRIC, "mode": "max"}},
        "run": {"dir": f"runs/{name}", "fresh": False},
    }
    for key, value in more.items():
        node = config
        *parents, last = key.split("__")
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = value
    return config


def write_reported(
    run: Path,
    config: Mapping[str, Any],
    curves: Curves,
    *,
    reason: str | None = "finished",
    best: tuple[int, Mapping[str, float]] | None = None,
    source: str = "1" * 64,
    overrides: Sequence[str] = (),
    manifest: bool = True,
) -> Path:
    """A run.

    Args:
        run: Its directory.
        config: Its config.
        curves: Values by metric, of the steps 1, 2, ...
        reason: Why its only segment ended; None where it was killed.
        best: Step and metrics of the best evaluation.
        source: Hash of its source files.
        overrides: Its overrides.
        manifest: Whether it has one.
    """
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(yaml.safe_dump(dict(config)))
    write_origin(run, Origin(tuple(overrides), ()))
    logger = JsonlLogger(run)
    steps = max(map(len, curves.values()), default=0)
    for step in range(1, steps + 1):
        row = {name: values[step - 1] for name, values in curves.items() if len(values) >= step}
        logger.log_metrics(row | {"samples": 8.0 * step}, step)
    logger.finalize("success")
    if reason == "finished":
        (run / "DONE").touch()
    if manifest:
        ended = reason is not None
        segment = Segment(
            BEGIN, "node1", ["python"], list(overrides), ".", None, "c", None, "code", "packages", "environment",
            from_step=0, world_size=1, strategy="DDPStrategy", precision="32-true", threads=1,
            ended_at=END if ended else None, to_step=steps if ended else None, reason=reason,
        )  # fmt: skip
        total = steps if reason == "finished" else 2 * steps
        write_manifest(run, _manifest(run.name, config, curves, segment, total, best, source))
    return run


def _manifest(
    name: str,
    config: Mapping[str, Any],
    curves: Curves,
    segment: Segment,
    total_steps: int,
    best: tuple[int, Mapping[str, float]] | None,
    source: str,
) -> Manifest:
    return Manifest(
        schema=1,
        mmtrain="0.1.0",
        name=name,
        total_steps=total_steps,
        segments=[segment],
        best=Best(METRIC, best[0], dict(best[1])) if best is not None else None,
        final={metric: values[-1] for metric, values in curves.items()},
        weights_sha256=None,
        config=dict(config),
        config_sha256="c",
        seed=int(config["seed"]),
        rng_policy="",
        data=DataRecord({"train": "f" * 64}),
        code={"code": CodeState("0.1.0", {"mmtrain": SourceTree({"a.py": source}, source)})},
        packages={"packages": {"torch": "2.13.0"}},
        environments={"environment": ENVIRONMENT},
    )


def write_sweep(
    path: Path, lrs: Sequence[float], seeds: Sequence[int], curves_of: Callable[[float, int], Curves | None]
) -> Sweep:
    """A sweep over learning rates and seeds; a job without curves was never begun."""
    sweep = Sweep(path)
    elements = []
    for index, (lr, seed) in enumerate(itertools.product(lrs, seeds)):
        varied = (f"optim.lr={value_text(lr)}", f"seed={seed}")
        name, overrides = ",".join(varied), ("experiment=toy", *varied)
        elements.append(Element(index, name, f"runs/{name}", overrides, varied, ()))
        if (curves := curves_of(lr, seed)) is not None:
            write_reported(path / "runs" / name, config_of(name, seed, lr), curves, overrides=overrides)
    sweep.logs.mkdir(parents=True)
    write_base(sweep, elements[0].overrides, config_of(elements[0].name, seeds[0], lrs[0]))
    write_plan(sweep, elements)
    return sweep


def write_picture(run: Path, key: str, step: int, colour: tuple[int, int, int] = (200, 30, 30)) -> None:
    """A picture that the run logged."""
    JsonlLogger(run).log_image(key, np.full((12, 16, 3), colour, np.uint8), step)
