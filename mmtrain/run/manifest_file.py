"""``manifest.json`` as a file: its place, its schema, and its head, which is read without what follows."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from mmtrain.errors import RunError

NAME = "manifest.json"
SCHEMA = 1

_HEAD_CHARACTERS = 1 << 14
_BETWEEN = re.compile(r"[\s,:]*")


def read_manifest_json(run: Path) -> dict[str, Any] | None:
    """The manifest of a run as JSON; None where it has none.

    Raises:
        RunError: It is damaged, or of another schema.
    """
    path = run / NAME
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from error
    if not isinstance(content, dict) or "schema" not in content:
        raise _damaged(path, "it has no schema")
    require_schema(content, path)
    return content


def read_head(path: Path, keys: Collection[str]) -> dict[str, Any]:
    """Some values of a manifest, reading little of what stands after the last of them.

    Of 10,000 runs the details are 300 MB of JSON, of large data sets more, and what a list shows stands before them.

    Args:
        path: The manifest's file.
        keys: Which values; one that is not there is left out.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no JSON.
    """
    with open(path, encoding="utf-8") as file:
        text = file.read(_HEAD_CHARACTERS)
        try:
            return _parse_head(text, keys)
        except ValueError:  # it may have been cut in a value
            return _parse_head(text + file.read(), keys)


def _parse_head(text: str, keys: Collection[str]) -> dict[str, Any]:
    """Raises a ValueError where the text ends before all keys were found, and before its own end."""
    decode = json.JSONDecoder().raw_decode
    found: dict[str, Any] = {}
    position = _skip(text, text.find("{") + 1)
    while len(found) < len(keys) and position < len(text) and text[position] == '"':
        key, position = decode(text, position)
        value, position = decode(text, _skip(text, position))
        if key in keys:
            found[key] = value
        position = _skip(text, position)
    # A number that was cut reads as a shorter one.
    if position == len(text) or (len(found) < len(keys) and text[position] != "}"):
        raise ValueError("the end is missing")
    return found


def require_schema(content: dict[str, Any], path: Path) -> None:
    """Refuses a manifest of another schema, and says what of the run can be read without it.

    Raises:
        RunError: The schema is not `SCHEMA`.
    """
    if content["schema"] != SCHEMA:
        writer = content.get("mmtrain")
        version = f" {writer}" if isinstance(writer, str) else ""
        raise RunError(
            f"the manifest has schema {content['schema']!r}, and this version of mmtrain reads {SCHEMA}; the run's"
            " config.yaml, origin.json, metrics.jsonl and checkpoints can still be read",
            where=str(path),
            mend=f"use the version of mmtrain that wrote it{version}, or move the manifest aside to go on without it",
        )


def _skip(text: str, position: int) -> int:
    match = _BETWEEN.match(text, position)
    assert match is not None, "the pattern matches the empty string"
    return match.end()


def _damaged(path: Path, reason: object) -> RunError:
    mend = "restore it from a backup, or move it aside to go on without it"
    return RunError(f"the manifest is damaged: {reason}", where=str(path), mend=mend)
