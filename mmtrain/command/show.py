"""``python -m mmtrain show``: the composed configuration, and where each value came from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from mmtrain.config import Composed, compose, validate


def show(overrides: list[str], extra_dirs: Sequence[Path] = ()) -> None:
    """Prints the composed configuration, also one with mistakes, then validates it.

    A terminal gets a tree; a file or pipe gets one ``key = value  # source`` a line.

    Raises:
        ConfigError: The configuration cannot be composed, or has mistakes.
    """
    composed = compose(overrides, extra_dirs=extra_dirs)
    console = Console()
    if console.is_terminal:
        tree = Tree(Text("config", style="bold"), guide_style="dim")
        _grow(tree, composed, composed.config, "")
        console.print(tree)
    else:
        for key, value in _leaves(composed.config, ""):
            line = f"{key} = {_json(value)}  # {_source(composed, key)}"
            console.print(line, markup=False, highlight=False, soft_wrap=True, emoji=False)
    validate(composed)


def _grow(tree: Tree, composed: Composed, node: Any, prefix: str) -> None:
    for name, value in _children(node):
        key = f"{prefix}{name}"
        if _is_branch(value):
            _grow(tree.add(Text(name, style="bold")), composed, value, f"{key}.")
        else:
            source = (f"  {_source(composed, key)}", "dim")
            tree.add(Text.assemble((name, "bold"), ": ", _json(value), source, overflow="fold"))


def _leaves(node: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in _children(node):
        if _is_branch(value):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _children(node: Any) -> list[tuple[str, Any]]:
    items = node.items() if isinstance(node, dict) else enumerate(node)
    return [(str(name), value) for name, value in items]


def _is_branch(value: Any) -> bool:
    if isinstance(value, list):
        return any(isinstance(item, dict) for item in value)
    return isinstance(value, dict) and bool(value)


def _source(composed: Composed, key: str) -> str:
    return str(composed.source(key) or "nowhere set")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
