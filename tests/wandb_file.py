"""What stands in W&B's own files, as W&B's own reader finds it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Record = tuple[str, dict[str, Any]]


def records(segment: Path) -> list[Record]:
    """All records of a segment, a folder ``offline-run-*``, with their kinds, in their order."""
    (file,) = segment.glob("*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    read = subprocess.run(command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL, timeout=120)
    found = [json.loads(line) for line in read.stdout.splitlines()]
    return [(record["type"], record[record["type"]]) for record in found]


def of_kind(found: Iterable[Record], kind: str) -> list[dict[str, Any]]:
    """The records of one kind."""
    return [content for name, content in found if name == kind]


def segment_of(run: Path) -> Path:
    """The only segment of a run directory."""
    (segment,) = (run / "wandb").glob("offline-run-*")
    return segment


def contents(artifact: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What an artifact's manifest says of each of its files."""
    return {entry["path"]: entry for entry in artifact["manifest"]["contents"]}
