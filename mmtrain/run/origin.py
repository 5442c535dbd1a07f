"""What a run was composed from: enough to compose it again with other values."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from mmtrain.callback.checkpoint_io import write_json
from mmtrain.errors import RunError


@dataclass(frozen=True)
class Origin:
    """Where a run's config came from.

    Attributes:
        overrides: The overrides of the command line.
        config_dirs: Further config directories, absolute.
    """

    overrides: tuple[str, ...]
    config_dirs: tuple[Path, ...]


def write_origin(directory: Path, origin: Origin) -> None:
    """Writes ``origin.json`` into a run directory."""
    write_json(
        directory / "origin.json",
        {"overrides": list(origin.overrides), "config_dirs": [str(path) for path in origin.config_dirs]},
    )


def read_origin(directory: Path) -> Origin:
    """Reads ``origin.json``.

    Raises:
        RunError: ``directory`` holds none, and so is no run directory.
    """
    path = directory / "origin.json"
    try:
        content = json.loads(path.read_text())
        return Origin(tuple(content["overrides"]), tuple(Path(name) for name in content["config_dirs"]))
    except (OSError, ValueError, KeyError) as error:
        raise RunError(
            "this is not the directory of a run", where=str(path), mend="name a directory such as runs/clip_emoji"
        ) from error
