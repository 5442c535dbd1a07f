"""Where each value of a composed configuration was last set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf._utils import get_yaml_loader


@dataclass(frozen=True)
class Source:
    """A line of a file, or an override of the command line.

    Attributes:
        path: The file, absolute; None for an override.
        line: Its line, counted from 1; None for an override.
        override: The override as it was typed; None for a file.
    """

    path: Path | None = None
    line: int | None = None
    override: str | None = None

    def __str__(self) -> str:
        if self.override is not None:
            return f"override {self.override}"
        assert self.path is not None
        return f"{relative(self.path)}:{self.line}"


def relative(path: Path) -> str:
    """Returns the path as seen from the working directory where it lies below it, else the absolute path."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


class Trace:
    """Follows Hydra's merges in their order and keeps, for each key, the last place that set it.

    Attributes:
        sources: Dotted key to its place. Besides leaves it holds mappings and lists (where they were last mentioned).
    """

    def __init__(self) -> None:
        self.sources: dict[str, Source] = {}

    def merge_file(self, path: Path, package: str) -> None:
        """Merges a YAML file at the dotted key ``package`` (empty: at the root).

        Raises:
            TypeError: The file holds no mapping.
        """
        node = parse(path)
        if node is None:
            return
        if not isinstance(node, yaml.MappingNode):
            raise TypeError("a configuration file holds a mapping")
        if package:
            self.sources[package] = Source(path, node.start_mark.line + 1)
        for name, child, line in _entries(node):
            if name != "defaults":
                self._merge_node(join(package, name), child, Source(path, line))

    def _merge_node(self, key: str, node: yaml.Node, source: Source) -> None:
        if isinstance(node, yaml.ScalarNode) and node.value == "???" and key in self.sources:
            return  # OmegaConf keeps the value that is there
        if not isinstance(node, yaml.MappingNode):
            self.delete(key)
        self.sources[key] = source
        for name, child, line in _entries(node):
            self._merge_node(join(key, name), child, Source(source.path, line))

    def merge_value(self, key: str, value: Any, source: Source) -> None:
        """Merges the value of an override."""
        parts = key.split(".")
        parents = [".".join(parts[:depth]) for depth in range(1, len(parts))]
        # A parent that held nothing, or a scalar, is made a mapping by the override.
        made = [parent for parent in parents if not any(other.startswith(f"{parent}.") for other in self.sources)]
        self.sources.update(dict.fromkeys(made, source))
        self._merge_value(key, value, source)

    def _merge_value(self, key: str, value: Any, source: Source) -> None:
        if isinstance(value, Mapping):
            for name, child in value.items():
                self._merge_value(join(key, str(name)), child, source)
        else:
            self.delete(key)
        self.sources[key] = source

    def delete(self, key: str) -> None:
        """Forgets a key and all below it."""
        self.sources = {
            other: source for other, source in self.sources.items() if other != key and not other.startswith(f"{key}.")
        }


def find_source(sources: Mapping[str, Source], key: str) -> Source | None:
    """Returns where a key was set, or the nearest mapping that holds it; None where nothing is known of it."""
    while key:
        if key in sources:
            return sources[key]
        key = key.rpartition(".")[0]
    return None


def find_default(paths: Iterable[Path], group: str, option: str | None) -> Source | None:
    """Returns the first line of the files whose defaults list picks the option (None: any option) of the group."""
    for path in paths:
        try:
            root = parse(path)
        except (yaml.YAMLError, UnicodeDecodeError):
            continue
        defaults = [child for name, child, _ in _entries(root) if name == "defaults"]
        for item in (item for child in defaults for item in _items(child)):
            for name, value, line in _entries(item):
                named = name.split(" ")[-1].lstrip("/").partition("@")[0]
                same_option = option is None or value.value == option
                if same_option and (named == group or group.endswith(f"/{named}")):
                    return Source(path, line)
            if isinstance(item, yaml.ScalarNode) and item.value.split("/")[-1] == option:
                return Source(path, item.start_mark.line + 1)
    return None


def scalars(path: Path) -> Iterator[tuple[str, int]]:
    """Yields the scalars of a YAML file as text, with their lines; nothing for a file that is no YAML."""
    try:
        pending = [parse(path)]
    except (yaml.YAMLError, UnicodeDecodeError):
        return
    while pending:
        node = pending.pop()
        if isinstance(node, yaml.ScalarNode):
            yield node.value, node.start_mark.line + 1
        pending.extend(child for _, child, _ in _entries(node))


def parse(path: Path) -> yaml.Node | None:
    """Returns the marked nodes of a YAML file, read as OmegaConf reads it; None for an empty file."""
    with path.open(encoding="utf-8") as stream:
        loader = get_yaml_loader()(stream)
        try:
            node: yaml.Node | None = loader.get_single_node()
            _flatten_merge_keys(loader, node)
        finally:
            loader.dispose()
    return node


def join(key: str, name: str) -> str:
    """Returns the dotted key of a name below a key."""
    return f"{key}.{name}" if key else name


def _flatten_merge_keys(loader: Any, node: yaml.Node | None) -> None:
    if isinstance(node, yaml.MappingNode):
        loader.flatten_mapping(node)
    for _, child, _ in _entries(node):
        _flatten_merge_keys(loader, child)


def _entries(node: yaml.Node | None) -> Iterator[tuple[str, yaml.Node, int]]:
    if isinstance(node, yaml.MappingNode):
        for name, child in node.value:
            yield str(name.value), child, name.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for index, child in enumerate(node.value):
            yield str(index), child, child.start_mark.line + 1


def _items(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        yield from node.value
