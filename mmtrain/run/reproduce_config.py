"""The config of a run to be run again: as it was, with what its machine gave it, and what the user sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from mmtrain.config.override import parse_override
from mmtrain.config.secret import MASK, masked
from mmtrain.errors import ConfigError, RunError, did_you_mean
from mmtrain.run.directory import config_differences
from mmtrain.run.dotted import flatten
from mmtrain.run.evidence import Evidence
from mmtrain.run.manifest import Manifest
from mmtrain.run.source_tree import json_sha256

PINNED = ("trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.threads", "trainer.precision")
"""Keys whose ``auto`` or null means what the machine has: set to what that was."""


def stored_config(manifest: Manifest, path: Path) -> dict[str, Any]:
    """The config with its secrets, which the manifest does not hold, and config.yaml does.

    Raises:
        RunError: It has some, and config.yaml is gone or was changed.
    """
    try:
        stored = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        stored = None
    if isinstance(stored, dict) and json_sha256(masked(stored)) == manifest.newest.config_sha256:
        return stored
    for key, value in flatten(manifest.config).items():
        if value == MASK:
            raise RunError(
                f"the config has a secret, {key}, which the manifest does not hold; and config.yaml, which does, is"
                " not that of the run any more",
                where=str(path / "config.yaml"),
                mend="restore config.yaml",
            )
    return manifest.config


def read_overrides(config: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Values by dotted key, from ``KEY=VALUE`` of what changes where and how fast a run goes, and not its trajectory.

    Raises:
        ConfigError: There is no such key, or it would make another run.
    """
    known, changed = flatten(config), {}
    for line in overrides:
        override = parse_override(line)
        key, value = override.key_or_group, override.value()
        if key not in known:
            raise ConfigError(f"the run's config has no value {key!r}", where=line, mend=did_you_mean(key, known))
        if config_differences({key: known[key]}, {key: value}):
            mend = "set only what changes where and how fast it goes: trainer.devices, data.root, data.num_workers ..."
            raise ConfigError(f"with another {key} it is another run", where=line, mend=mend)
        changed[key] = value
    return changed


def pins(then: Evidence, config: Mapping[str, Any], changed: Mapping[str, Any]) -> dict[str, Any]:
    """What the machine gave the run then.

    Raises:
        RunError: This machine cannot, and the user did not say what to do instead.
    """
    assert then.manifest is not None and then.environment is not None, "its steps were made somewhere"
    segment, nodes, where = then.manifest.newest, then.environment.nodes, str(then.path)
    num_nodes: int = config["trainer"]["num_nodes"]
    devices = (segment.world_size or 1) // num_nodes
    if num_nodes > 1 and "trainer.num_nodes" not in changed:
        mend = f"run all ranks here: trainer.num_nodes=1 trainer.devices={segment.world_size}"
        raise RunError(f"the run was made on {num_nodes} nodes, and this is one", where=where, mend=mend)
    device = nodes[0].device if nodes else "cpu"
    accelerator = device if device in ("cpu", "mps") else "cuda"
    here = torch.cuda.device_count() if accelerator == "cuda" else devices
    if here < devices and not {"trainer.accelerator", "trainer.devices"} & changed.keys():
        found = f"{here} GPUs" if here else "no GPU"
        raise RunError(
            f"the run was made on {devices} x {device}, and there is {found} here",
            where=where,
            mend="with other hardware, say which and how near: trainer.accelerator=cpu trainer.devices=1 "
            "--tolerance 1e-2",
        )
    values = (accelerator, devices, num_nodes, segment.threads, segment.precision)
    return dict(zip(PINNED, values, strict=True))
