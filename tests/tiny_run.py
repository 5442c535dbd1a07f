"""The real program on 52 drawn pictures: a data set, a command line, and how to start, watch, kill and compare runs."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw

from mmtrain.callback.checkpoint_io import AtomicCheckpointIO, latest_checkpoint
from mmtrain.data.download import default_cache_dir
from mmtrain.data.shards.build import build_manifest
from mmtrain.data.shards.write import Sample, write_shards

ROOT = Path(__file__).parents[1]
STEPS, EVAL_EVERY = 60, 9

COLOURS = ("red", "green", "blue", "orange", "purple", "black", "gold", "pink")
SHAPES = ("circle", "square", "triangle", "cross")
NAMES = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]


@dataclass(frozen=True)
class Outcome:
    """How the program ended, and what it said."""

    status: int
    out: str
    err: str


Program = Callable[..., Outcome]


def write_shapes(root: Path) -> None:
    """A data set in the form of ``mmtrain.data.image_text``, with a set for each kind of evaluation."""
    on_white, on_grey = ([_sample(name, paper) for name in NAMES] for paper in ("white", "lightgrey"))
    splits = {"train": on_white + on_grey[:20], "new_style": on_grey, "new_concept": on_grey[20:]}
    categories = [SHAPES.index(name.split()[1]) for name in NAMES]
    classes = {"classes": NAMES, "categories": categories, "category_names": SHAPES}
    for split, samples in splits.items():
        paths = write_shards(samples, root / split, split, samples_per_shard=20)
        build_manifest(paths, root / split / "manifest.json")
        (root / split / "classes.json").write_text(json.dumps(classes))


def _sample(name: str, paper: str) -> Sample:
    colour, shape = name.split()
    picture = Image.new("RGB", (40, 40), paper)
    draw = ImageDraw.Draw(picture)
    if shape == "circle":
        draw.ellipse((6, 6, 34, 34), fill=colour)
    elif shape == "square":
        draw.rectangle((8, 8, 32, 32), fill=colour)
    elif shape == "triangle":
        draw.polygon([(20, 5), (35, 34), (5, 34)], fill=colour)
    else:
        draw.line((5, 5, 35, 35), fill=colour, width=6)
        draw.line((5, 35, 35, 5), fill=colour, width=6)
    png = io.BytesIO()
    picture.save(png, "PNG")
    label = json.dumps({"label": NAMES.index(name)}).encode()
    return f"{colour}_{shape}_{paper}", {"png": png.getvalue(), "txt": name.encode(), "json": label}


def tiny(data: Path, run: Path, *more: str) -> list[str]:
    """Overrides that make ``clip_emoji`` a run of seconds; evaluations and checkpoints fall between its steps."""
    return [
        "experiment=clip_emoji",
        f"run.dir={run}",
        *(f"data.{line}" for line in (f"root={data}", "source=null", "num_workers=0", "lanes=4")),
        "data.eval={new_style: zeroshot, new_concept: retrieval}",
        *("data.global_batch_size=16", "data.train_transform.size=32", "data.eval_transform.size=32"),
        *(f"model.{line}" for line in ("embed_dim=16", "image.image_size=32", "image.stem=[8]")),
        *(f"model.{tower}.{size}" for tower in ("image", "text") for size in ("d_model=16", "num_layers=1")),
        *("model.image.num_heads=2", "model.text.num_heads=2"),
        *("trainer.threads=1", "trainer.accelerator=cpu", "trainer.log_every_n_steps=1"),
        *("budget.epochs=null", f"budget.samples={16 * STEPS}", f"trainer.eval_every_n_steps={EVAL_EVERY}"),
        *("callback.retrievals.images=16", "callback.retrievals.top_k=3", "callback.checkpoint.every_n_steps=5"),
        *("optim.lr=4e-3", "logger=none"),
        *more,
    ]


def start(arguments: list[str], log: Path, **environment: str) -> subprocess.Popen[bytes]:
    """``python -m mmtrain ARGUMENTS`` in a process group of its own, as a user of W&B without an account."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    home = {"HOME": str(log.parent), "MMTRAIN_CACHE": str(default_cache_dir())}
    variables = kept | home | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment
    command = [sys.executable, "-m", "mmtrain", *arguments]
    with log.open("ab") as file:
        return subprocess.Popen(
            command,
            env=variables,
            cwd=log.parent,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )


def finish(process: subprocess.Popen[bytes], log: Path) -> str:
    """What a process said, which must end well."""
    try:
        status = process.wait(timeout=180)
    except subprocess.TimeoutExpired:
        kill_group(process)
        raise
    said = log.read_text(errors="replace")
    assert status == 0, said[-4000:]
    return said


def wait_for_step(run: Path, step: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if any(row["step"] >= step for row in rows(run)):
            return
        time.sleep(0.005)
    kill_group(process)
    raise AssertionError(f"step {step} was not reached: {log.read_text(errors='replace')[-4000:]}")


def kill_group(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def rows(run: Path, *, but: str | None = None) -> list[dict[str, Any]]:
    """The rows of ``metrics.jsonl``, a torn last one left out, without the keys that begin with ``but``."""
    path = run / "metrics.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    kept = [{k: v for k, v in json.loads(line).items() if but is None or not k.startswith(but)} for line in lines]
    return [row for row in kept if row.keys() != {"step"}]


def last_checkpoint(run: Path) -> dict[str, Any]:
    path = latest_checkpoint(run / "checkpoints")
    assert path is not None
    return AtomicCheckpointIO().load_checkpoint(path)


def differences(a: Any, b: Any, where: str = "") -> list[str]:
    """Every place where two checkpoints are not the same to the last bit."""
    if type(a) is not type(b):
        return [f"{where}: {type(a)} != {type(b)}"]
    if isinstance(a, dict):
        if a.keys() != b.keys():
            return [f"{where}: keys {a.keys() ^ b.keys()}"]
        return [line for key in a for line in differences(a[key], b[key], f"{where}/{key}")]
    if isinstance(a, list | tuple):
        if len(a) != len(b):
            return [f"{where}: lengths {len(a)} != {len(b)}"]
        return [line for i, pair in enumerate(zip(a, b, strict=True)) for line in differences(*pair, f"{where}/{i}")]
    same = torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    return [] if same else [f"{where}: {a} != {b}"]
