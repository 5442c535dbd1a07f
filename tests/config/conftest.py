"""A small configuration tree with the groups of mmtrain's own."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path

import pytest

from mmtrain.config import Composed, allow_targets, compose, validate
from mmtrain.errors import ConfigError

TREE = {
    "train": """\
defaults:
  - _self_
  - objective: contrast
  - model: pair
  - data: pictures
  - optim: adamw
  - strategy: auto
  - callback: default
  - logger: file
  - optional experiment: null
  - optional debug: null
name: ???
seed: 0
run: {dir: "runs/${name}", fresh: false}
budget: {epochs: null, samples: null, tokens: null}
trainer:
  accelerator: auto
  devices: 1
  num_nodes: 1
  precision: auto
  gradient_clip_norm: 1.0
  log_every_n_steps: 10
  eval_every_n_steps: null
  threads: null
  compile: false
""",
    "objective/contrast": "_target_: config_toys.Contrast\n",
    "model/pair": """\
# Two towers.
_target_: config_toys.Pair
lr: 1e-4
image:
  _target_: config_toys.Tower
  width: 8
text:
  _target_: config_toys.Tower
  width: 16
""",
    "model/single": "_target_: config_toys.Tower\nwidth: 4\n",
    "data/pictures": "_target_: config_toys.Pictures\nglobal_batch_size: 8\nmicro_batch_size: null\n",
    "optim/adamw": "_target_: config_toys.Optim\nlr: 1e-3\nbetas: [0.9, 0.98]\n",
    "strategy/auto": "_target_: config_toys.Strategy\n",
    "callback/default": "ema:\n  _target_: config_toys.Ema\n  decay: 0.99\nmetrics: null\n",
    "logger/file": "file:\n  _target_: config_toys.FileLogger\n",
    "debug/fast": "# @package _global_\nbudget: {epochs: null, samples: 16}\n",
    "experiment/small": """\
# @package _global_
defaults:
  - override /model: pair

name: small
budget:
  epochs: 2
model:
  image:
    width: 32
""",
    "experiment/one": """\
# @package _global_
defaults:
  - override /model: single
name: one
budget: {tokens: 1_000}
model:
  width: 64
""",
}


@dataclass
class Conf:
    """The tree on disk."""

    path: Path

    def write(self, name: str, text: str) -> None:
        path = self.path / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def compose(self, *overrides: str, extra: tuple[Path, ...] = ()) -> Composed:
        return compose(overrides, config_dir=self.path, extra_dirs=extra)

    def refusal(self, *overrides: str) -> str:
        """Composes and validates, and returns the text of the error that must come."""
        with pytest.raises(ConfigError) as caught:
            validate(self.compose(*overrides))
        return str(caught.value)


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Conf:
    """The tree in the working directory, so that places read ``conf/...``, with its targets allowed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(Path(__file__).parent)
    monkeypatch.setattr(importlib.import_module("mmtrain.config.instantiate"), "_prefixes", {"mmtrain."})
    allow_targets("config_toys.")
    tree = Conf(tmp_path / "conf")
    for name, text in TREE.items():
        tree.write(name, text)
    return tree
