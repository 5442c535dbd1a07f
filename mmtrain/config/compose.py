"""From overrides to one plain configuration whose every value knows where it came from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hydra import version as hydra_version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.default_element import ResultDefault
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from mmtrain.config import directory
from mmtrain.config.directory import ConfigFiles
from mmtrain.config.override import apply_override, parse_override, split_search_path
from mmtrain.config.provenance import Source, Trace, find_source, join, relative
from mmtrain.config.schema import Root
from mmtrain.config.translate import (
    composition_errors,
    file_errors,
    interpolation_errors,
)
from mmtrain.errors import ConfigError, did_you_mean

_GROUPS_OF_NODES = ("callback", "logger")


@dataclass(frozen=True)
class Composed:
    """A configuration, resolved to plain dicts, lists and scalars.

    Attributes:
        config: The values.
        provenance: Dotted key to where its value was last set; mappings are keys, too.
        overrides: The overrides as they were typed.
        choices: Group to the option picked; None where the group is empty.
    """

    config: dict[str, Any]
    provenance: Mapping[str, Source]
    overrides: tuple[str, ...]
    choices: Mapping[str, str | None]

    def source(self, key: str) -> Source | None:
        """Returns where a key was set, or the nearest mapping that holds it; None where nothing is known of it."""
        return find_source(self.provenance, key)


def compose(overrides: Sequence[str], *, config_dir: Path | None = None, extra_dirs: Sequence[Path] = ()) -> Composed:
    """Composes ``train.yaml``, the options of its groups and the overrides. Names and types are not checked here.

    Args:
        overrides: In Hydra's grammar: ``experiment=clip_emoji``, ``model.lr=1``, ``+a=b``, ``~logger.wandb``.
        config_dir: Directory that holds ``train.yaml``; default mmtrain's own.
        extra_dirs: Directories with further options and groups.

    Raises:
        ConfigError: A file or override cannot be read, an option is unknown, or a mandatory value is missing.
    """
    main = (config_dir or directory.config_dir()).resolve()
    extra = [path.resolve() for path in extra_dirs]
    directory.check_directories(main, extra)
    parsed, search_path = split_search_path([parse_override(override) for override in overrides])
    files = ConfigFiles([main, *extra, *search_path])
    picked = {override.key_or_group: str(override.input_line) for override in parsed}
    with _hydra_1_3(), composition_errors(files, picked):
        loader = _loader(files)
        lines = [_normalise(override, loader, files) for override in parsed]
        defaults = loader.compute_defaults_list(directory.ROOT_CONFIG, lines, RunMode.RUN)
        known = {**defaults.overrides.known_choices, **dict.fromkeys(defaults.overrides.deletions)}
        choices = {group: option for group, option in known.items() if not group.startswith("hydra/")}
        _check_options(choices, files, picked)
    cfg, trace = _merge(defaults.defaults, files)
    for override in defaults.config_overrides:
        apply_override(override, cfg, trace)
    config = _resolve(cfg, trace.sources, choices)
    return Composed(config, trace.sources, tuple(overrides), choices)


def mend_of_root_key(name: str, source: Source | None, choices: Mapping[str, str | None]) -> str:
    """Returns what to do about a key that the root does not have."""
    if name in choices and source is not None and source.path is not None:
        return f"begin {relative(source.path)} with the line '# @package _global_'"
    if "." in name:
        return f"nest it: {': {'.join(name.split('.'))}: ...{'}' * name.count('.')}"
    return did_you_mean(name, [field.name for field in fields(Root)])


@contextmanager
def _hydra_1_3() -> Iterator[None]:
    before = hydra_version.VersionBase.instance().version_base
    hydra_version.setbase("1.3")
    try:
        yield
    finally:
        hydra_version.VersionBase.instance().version_base = before


def _loader(files: ConfigFiles) -> ConfigLoaderImpl:
    main, *others = files.directories
    search_path = create_config_search_path(str(main))
    for path in others:
        search_path.prepend("mmtrain", str(path), anchor="schema")
    return ConfigLoaderImpl(search_path)


def _normalise(override: Override, loader: ConfigLoaderImpl, files: ConfigFiles) -> str:
    """Rewrites the override of a group so that Hydra takes what plainly is meant: ``+experiment=a``, ``debug=null``."""
    line, group, value = str(override.input_line), override.key_or_group, override.value()
    if group not in files.groups() or override.is_delete() or isinstance(value, dict):
        return line
    if value is None:
        return f"~{override.input_line}".partition("=")[0]
    if not isinstance(value, str | list):
        raise files.unknown_option(group, str(value), {group: line})
    if override.is_add() or override.is_force_add():
        known = loader.compute_defaults_list(directory.ROOT_CONFIG, [], RunMode.RUN).overrides.known_choices
        return line.lstrip("+") if group in known else line
    return line


def _check_options(choices: Mapping[str, str | None], files: ConfigFiles, picked: Mapping[str, str]) -> None:
    """Refuses what Hydra passes over: an unknown option of a group that is ``optional`` in the defaults list."""
    for key, option in choices.items():
        group = key.partition("@")[0]
        if isinstance(option, str) and files.find(f"{group}/{option}") is None:
            raise files.unknown_option(group, option, picked)


def _merge(defaults: Sequence[ResultDefault], files: ConfigFiles) -> tuple[DictConfig, Trace]:
    """Merges the files of a defaults list in its order, as Hydra does, and keeps the place of each value."""
    cfg, trace = OmegaConf.create(), Trace()
    for default in defaults:
        path = files.find(str(default.config_path))
        if path is None:  # Hydra's own settings
            continue
        with file_errors(path):
            trace.merge_file(path, default.package or "")
            loaded: Any = OmegaConf.load(path)
            loaded.pop("defaults", None)
            packaged = OmegaConf.create()
            if default.package:
                OmegaConf.update(packaged, default.package, loaded, merge=False)
            cfg.merge_with(packaged if default.package else loaded)
    return cfg, trace


def _resolve(cfg: DictConfig, sources: Mapping[str, Source], choices: Mapping[str, str | None]) -> dict[str, Any]:
    # Not OmegaConf.missing_keys: it raises at an interpolation of a missing value.
    if missing := sorted(_mandatory(OmegaConf.to_container(cfg, resolve=False), "")):
        raise _missing_values(missing, cfg, sources, choices)
    with interpolation_errors(cfg, sources):
        config: Any = OmegaConf.to_container(cfg, resolve=True)
    for group in _GROUPS_OF_NODES:
        config[group] = config.get(group) or {}  # a group that is switched off as a whole
    return dict(config)


def _mandatory(node: Any, key: str) -> Iterator[str]:
    if node == "???":
        yield key
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for name, child in children:
        yield from _mandatory(child, join(key, str(name)))


def _missing_values(
    missing: list[str], cfg: DictConfig, sources: Mapping[str, Source], choices: Mapping[str, str | None]
) -> ConfigError:
    mends = [f"set {' '.join(f'{key}=...' for key in missing)}"]
    known = [field.name for field in fields(Root)]
    # A value often is missing because it stands under a wrong name, which validate() does not come to tell.
    for name in (str(name) for name in cfg if name not in known):
        source = find_source(sources, name)
        mends.append(f"{name!r} ({source}) is an unknown key: {mend_of_root_key(name, source, choices)}")
    declared = [f"{key} ({source})" for key in missing if (source := find_source(sources, key))]
    plural = "values are" if len(missing) > 1 else "value is"
    return ConfigError(
        f"a mandatory {plural} missing: {', '.join(missing)}", where=", ".join(declared), mend="; ".join(mends)
    )
