"""The reference of the config tree, from its files and from the signatures that are their schema."""

from __future__ import annotations

import html
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from mmtrain.config import config_dir
from mmtrain.config.instantiate import resolve_target
from mmtrain.config.schema import PROVIDED, Root
from mmtrain.config.signature import signature_of, type_name

HEAD = """# Config groups

Every option of every group with its file, and every key that its targets take, read from the signatures that
[validation](configs.md#what-is-checked) goes by. A key in bold type has no default in the code: a file or you set it.

"""


def groups_page() -> str:
    """The page, in Markdown."""
    conf = config_dir()
    parts = [HEAD, _root()]
    for group in [*PROVIDED, "debug", "hydra/launcher"]:
        parts.append(_group(conf, group))
    parts.append(_experiments(conf))
    return "\n".join(parts)


def _root() -> str:
    path = config_dir() / "train.yaml"
    lines = ["## The root", "", _file(path), ""]
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    for field in fields(Root):
        section = signature_of(Root).annotations[field.name]
        if is_dataclass(section) and isinstance(section, type):
            lines += [f"### {field.name}", "", _keys(section, values=values[field.name]), ""]
    return "\n".join(lines)


def _group(conf: Path, group: str) -> str:
    lines = [f"## {group}", ""]
    targets: dict[str, None] = {}
    for path in sorted((conf / group).glob("*.yaml")):
        lines += [f"### `{group}={path.stem}`", "", _comment(path), "", _file(path), ""]
        targets |= dict.fromkeys(_targets(yaml.safe_load(path.read_text(encoding="utf-8"))))
    provided = PROVIDED.get(group, frozenset())
    for target in targets:
        lines += [
            f"#### {target}",
            "",
            _summary(resolve_target(target)),
            "",
            _keys(resolve_target(target), provided),
            "",
        ]
    return "\n".join(lines)


def _experiments(conf: Path) -> str:
    lines = ["## experiment", ""]
    for path in sorted((conf / "experiment").glob("*.yaml")):
        lines += [f"### `experiment={path.stem}`", "", _comment(path), "", _file(path), ""]
    return "\n".join(lines)


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if "_target_" in node:
            yield node["_target_"]
        for child in node.values():
            yield from _targets(child)
    elif isinstance(node, list):
        for child in node:
            yield from _targets(child)


def _keys(target: Any, provided: frozenset[str] = frozenset(), values: Mapping[str, Any] = MappingProxyType({})) -> str:
    """A table of the arguments of a target, without those that the program passes; ``values`` are further defaults."""
    parameters = inspect.signature(target).parameters
    meanings = arguments_of(target)
    rows = []
    for name, annotation in signature_of(target).annotations.items():
        if name in provided:
            continue
        default = values.get(name, parameters[name].default)
        shown = f"**`{name}`**" if default is inspect.Parameter.empty else f"`{name}`"
        value = "" if default is inspect.Parameter.empty else f"`{_yaml(default)}`"
        rows.append(f"| {shown} | {_type(annotation)} | {value} | {meanings.get(name, '')} |")
    if not rows:
        return "It takes no keys."
    return "\n".join(["| key | type | default | meaning |", "|---|---|---|---|", *rows])


def arguments_of(target: Any) -> dict[str, str]:
    """What a docstring in Google's style says of each argument, or of each attribute of a dataclass."""
    text = inspect.getdoc(target) or ""
    meanings: dict[str, str] = {}
    for section in re.findall(r"^(?:Args|Attributes):\n((?:[ ]{4}.*\n?|\n)+)", text, re.MULTILINE):
        for name, meaning in re.findall(r"^    (\w+): ((?:.*\n?)(?:^     +.*\n?)*)", section, re.MULTILINE):
            meanings.setdefault(name, _prose(meaning))
    return meanings


def _summary(target: Any) -> str:
    return _prose((inspect.getdoc(target) or "").partition("\n\n")[0])


def _prose(text: str) -> str:
    """A docstring's text in Markdown: one line, code between single ticks, no bar that would end a table's cell."""
    return re.sub(r"\s+", " ", text).strip().replace("``", "`").replace("|", "\\|")


def _type(annotation: Any) -> str:
    """An annotation as code in a table's cell, without modules: ``int > 0``, ``str | None``."""
    text = re.sub(r"\b(?:typing|collections\.abc)\.", "", type_name(annotation))
    text = re.sub(r"Annotated\[(\w+), Gt\(gt=(\w+)\)\]", r"\1 > \2", text)
    return f"<code>{html.escape(text, quote=False).replace('|', '&#124;')}</code>"


def _yaml(value: Any) -> str:
    """A default as one would write it in a file; an object by the name of its class."""
    if not isinstance(value, str | int | float | list | tuple | dict | None):
        return type(value).__name__
    return yaml.safe_dump(list(value) if isinstance(value, tuple) else value, default_flow_style=True).split("\n")[0]


def _comment(path: Path) -> str:
    """The comment at the head of a file."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            lines.append(line.lstrip("# "))
    return " ".join(lines)


def _file(path: Path) -> str:
    text = path.read_text(encoding="utf-8").rstrip()
    shown = path.relative_to(config_dir().parent).as_posix()
    body = "\n".join(f"    {line}" for line in ["```yaml", *text.splitlines(), "```"])
    return f'??? example "{shown}"\n\n{body}'
