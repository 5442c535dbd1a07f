"""Hydra's and OmegaConf's exceptions as errors that name the line or override at fault."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import yaml
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mmtrain.config.directory import ConfigFiles
from mmtrain.config.provenance import Source, find_default, find_source, relative
from mmtrain.errors import ConfigError, did_you_mean

# Hydra raises all of these for mistakes in files.
_COMPOSITION_ERRORS = (
    HydraException,
    OmegaConfBaseException,
    yaml.YAMLError,
    AssertionError,
    AttributeError,
    OSError,
    TypeError,
    ValueError,
)


@contextmanager
def composition_errors(files: ConfigFiles, picked: Mapping[str, str]) -> Iterator[None]:
    """Turns what Hydra raises while it composes into a ConfigError.

    Args:
        files: Where the configuration files lie.
        picked: Group to the override that picks its option.
    """
    try:
        yield
    except MissingConfigException as error:
        group, _, option = (error.missing_cfg_file or "").rpartition("/")
        raise files.unknown_option(group, option, picked) from error
    except _COMPOSITION_ERRORS as error:
        cause = error if str(error) else error.__cause__ or error
        if isinstance(cause, yaml.MarkedYAMLError):
            raise _yaml_error(cause) from error
        if unused := re.search(r"Could not override '([^']+)'", str(cause)):
            raise _unused_group(unused[1], files, picked) from error
        named = re.match(r"In '?([\w/.-]+?)'?: ", str(cause))
        path = files.find(named[1]) if named else None
        if path:
            where = relative(path)
        elif isinstance(cause, OmegaConfBaseException | UnicodeDecodeError):
            where = files.unreadable() or ""
        else:
            where = ", ".join(f"override {line}" for group, line in picked.items() if group in files.groups())
        raise ConfigError(_tidy(cause).removeprefix(named[0] if named else ""), where=where or None) from error


@contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """Turns what OmegaConf raises while a file is merged into a ConfigError."""
    try:
        yield
    except (OmegaConfBaseException, TypeError, ValueError) as error:
        raise ConfigError(f"cannot be merged with the files before it: {_tidy(error)}", where=relative(path)) from error


@contextmanager
def override_errors(override: str) -> Iterator[None]:
    """Turns what OmegaConf raises while an override is merged into a ConfigError."""
    try:
        yield
    except (OmegaConfBaseException, HydraException, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"cannot be merged: {_tidy(error)}", where=f"override {override}") from error


@contextmanager
def interpolation_errors(cfg: DictConfig, sources: Mapping[str, Source]) -> Iterator[None]:
    """Turns what OmegaConf raises while it resolves ``${...}`` into a ConfigError."""
    try:
        yield
    except RecursionError as error:
        raise ConfigError("an interpolation ${...} refers to itself") from error
    except OmegaConfBaseException as error:
        key = error.full_key or ""
        where = find_source(sources, key.replace("[", ".").replace("]", ""))
        missing = re.search(r"Interpolation key '([^']+)' not found", str(error))
        mend = did_you_mean(missing[1], _keys(cfg)) if missing else None
        if missing and mend and not mend.startswith("did"):
            mend = None  # all keys there are would be no help
        raise ConfigError(f"{key}: {_tidy(error)}", where=str(where) if where else None, mend=mend) from error


def _yaml_error(error: yaml.MarkedYAMLError) -> ConfigError:
    mark = error.problem_mark or error.context_mark
    where = f"{relative(Path(mark.name))}:{mark.line + 1}" if mark else None
    mend = "remove one of the two" if "duplicate key" in (error.problem or "") else "mend the YAML"
    return ConfigError(f"not valid YAML: {error.problem or error.context}", where=where, mend=mend)


def _unused_group(group: str, files: ConfigFiles, picked: Mapping[str, str]) -> ConfigError:
    if group in picked:
        where: str | None = f"override {picked[group]}"
    else:
        source = find_default(files.all(), group, None)
        where = str(source) if source else None
    if group in files.groups():
        mend = f"nothing picks this group by default: write +{group}=..., or name it without 'override'"
    else:
        mend = did_you_mean(group, files.groups())
    return ConfigError(f"{group!r} is no group that could be overridden", where=where, mend=mend)


def _keys(cfg: DictConfig) -> list[str]:
    keys: list[str] = []

    def walk(node: object, prefix: str) -> None:
        if isinstance(node, dict):
            for name, child in node.items():
                keys.append(f"{prefix}{name}")
                walk(child, f"{prefix}{name}.")

    walk(OmegaConf.to_container(cfg, resolve=False), "")
    return keys


def _tidy(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if not line.startswith(("full_key:", "object_type="))), type(error).__name__)
