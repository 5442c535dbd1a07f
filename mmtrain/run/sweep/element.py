"""One job of a sweep, composed in the process that runs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmtrain.config import Composed, compose, validate
from mmtrain.run.sweep.check import naming, quoted
from mmtrain.run.sweep.plan import Element, Sweep, refuse_other_config


def composed_element(sweep: Sweep, element: Element, drawn: Sequence[str] = ()) -> Composed:
    """The validated config of a job: its overrides, its name, its run directory, and the sweep as its loggers' group.

    Args:
        sweep: The sweep.
        element: The job.
        drawn: Overrides that a search gave it.

    Raises:
        ConfigError: A config file was changed since the plan was made, and is wrong now.
        RunError: One was changed so that the jobs of the plan would not be comparable.
    """
    place = f"run.dir={quoted(str(sweep.path / element.run))}"
    overrides = [*element.overrides, *drawn, naming(element.name), place]
    directories = [Path(name) for name in element.config_dirs]
    mend = "undo the change in the config files, or plan the sweep under another --name"
    refuse_other_config(sweep, sweep.base_overrides(), directories, mend)
    composed = compose(overrides, extra_dirs=directories)
    if grouping := _grouping(composed.config, sweep.path.name):
        composed = compose([*overrides, *grouping], extra_dirs=directories)
    validate(composed)
    return composed


def _grouping(config: Mapping[str, Any], name: str) -> list[str]:
    """Overrides that give the sweep's name to every logger that takes a group and was given none."""
    nodes = config["logger"].items()
    open_groups = [key for key, node in nodes if node is not None and node.get("group", "") is None]
    return [f"logger.{key}.group={quoted(name)}" for key in open_groups]
