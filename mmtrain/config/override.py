"""Overrides of the command line: read in Hydra's grammar, merged into a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf._utils import split_key

from mmtrain.config.provenance import Source, Trace, join
from mmtrain.config.translate import override_errors
from mmtrain.errors import ConfigError, did_you_mean


def parse_override(line: str) -> Override:
    """Reads an override of one run.

    Raises:
        ConfigError: It cannot be read, gives several values to sweep over, or sets Hydra itself.
    """
    try:
        override = OverridesParser.create().parse_override(line)
    except HydraException as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"cannot be read as an override: {reason}",
            where=f"override {line}",
            mend="write key=value, +key=value or ~key; quote a value with special characters: \"key='a b, c'\"",
        ) from error
    if not override.key_or_group:
        raise ConfigError("an override without a key", where=f"override {line}", mend="write key=value")
    if override.is_sweep_override():
        raise ConfigError(
            f"{override.key_or_group} is given several values, and this command runs one configuration",
            where=f"override {line}",
            mend=f"python -m mmtrain sweep {line} ; a list as one value is {override.key_or_group}=[1,2]",
        )
    if override.is_hydra_override() and override.key_or_group != "hydra.searchpath":
        raise ConfigError(
            "Hydra only composes the configuration here, and its own settings have no effect",
            where=f"override {line}",
            mend="remove it; the directory of a run is run.dir",
        )
    return override


def split_search_path(overrides: list[Override]) -> tuple[list[Override], list[Path]]:
    """Returns the overrides without those of ``hydra.searchpath``, and the directories that these name.

    Raises:
        ConfigError: A directory does not exist.
    """
    rest = [override for override in overrides if not override.is_hydra_override()]
    directories: list[Path] = []
    for override in overrides:
        if override.is_hydra_override():
            value = override.value()
            for entry in value if isinstance(value, list) else [value]:
                path = Path(str(entry).removeprefix("file://")).resolve()
                if not path.is_dir():
                    raise ConfigError(
                        f"config directory {entry} does not exist", where=f"override {override.input_line}"
                    )
                directories.append(path)
    return rest, directories


def apply_override(override: Override, cfg: DictConfig, trace: Trace) -> None:
    """Sets or removes a value. Any key can be set: validation tells an unknown one, and knows its neighbours.

    Raises:
        ConfigError: The value cannot be merged, or the key to remove is not there.
    """
    line = str(override.input_line)
    key = ".".join(split_key(override.key_or_group))
    if override.package is not None:
        raise ConfigError(f"{override.key_or_group!r} is no group", where=f"override {line}")
    if override.is_delete():
        _delete(key, override.value(), cfg, line)
        trace.delete(key)
    else:
        with override_errors(line):
            OmegaConf.update(cfg, key, override.value(), merge=True, force_add=True)
        trace.merge_value(key, override.value(), Source(override=line))


def _delete(key: str, value: Any, cfg: DictConfig, line: str) -> None:
    parent_key, _, name = key.rpartition(".")
    parent = OmegaConf.select(cfg, parent_key) if parent_key else cfg
    if not isinstance(parent, DictConfig) or name not in list(parent):
        siblings = [join(parent_key, str(sibling)) for sibling in parent] if isinstance(parent, DictConfig) else []
        raise ConfigError(
            f"{key} is not there to be removed", where=f"override {line}", mend=did_you_mean(key, siblings)
        )
    if value is not None and value != parent.get(name):
        raise ConfigError(f"{key} is {parent.get(name)!r}, not {value!r}", where=f"override {line}")
    del parent[name]
