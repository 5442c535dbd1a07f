"""Configs by dotted keys. Loads nothing else, so that what only looks at runs starts at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def flatten(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A config with dotted keys; an empty mapping is a value."""
    flat: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def value_at(node: Any, key: str) -> Any:
    """The value, or the branch, at a dotted key.

    Raises:
        KeyError: There is none.
    """
    for part in key.split("."):
        if not isinstance(node, Mapping):
            raise KeyError(key)
        node = node[part]
    return node


def has(node: Any, key: str) -> bool:
    """Whether there is a value, or a branch, at a dotted key."""
    try:
        value_at(node, key)
    except KeyError:
        return False
    return True


def set_value(node: dict[str, Any], key: str, value: Any) -> None:
    """Sets the value at a dotted key, and makes the branches that lead there."""
    *branches, name = key.split(".")
    for branch in branches:
        node = node.setdefault(branch, {})
    node[name] = value
