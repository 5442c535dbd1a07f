"""What can be known of a run from its directory, whole or not."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mmtrain.config.secret import masked
from mmtrain.errors import RunError
from mmtrain.logger.rows import Row, read_rows
from mmtrain.run.code_state import CodeState
from mmtrain.run.data_record import DataRecord, read_data_record
from mmtrain.run.environment import Environment
from mmtrain.run.listing import ListedRun, read_listed
from mmtrain.run.manifest import Manifest, read_manifest

_MOST_NAMED = 5


@dataclass(frozen=True)
class Evidence:
    """A run as it lies there.

    Attributes:
        path: Run directory.
        listed: Its state and progress.
        manifest: None where it has none that can be read.
        config: Without secrets; empty where there is none.
        data: Fingerprints of the data; empty where they were not recorded.
        rows: The rows of ``metrics.jsonl``.
        problems: What could not be read, and why.
    """

    path: Path
    listed: ListedRun
    manifest: Manifest | None
    config: dict[str, Any]
    data: DataRecord
    rows: list[Row]
    problems: list[str] = field(default_factory=list)

    @property
    def code(self) -> CodeState | None:
        """Code of the newest segment."""
        return self.manifest.code.get(self.manifest.newest.code) if self.manifest else None

    @property
    def packages(self) -> Mapping[str, str] | None:
        """Packages of the newest segment."""
        return self.manifest.packages.get(self.manifest.newest.packages) if self.manifest else None

    @property
    def environment(self) -> Environment | None:
        """Machine of the newest segment."""
        return self.manifest.environments.get(self.manifest.newest.environment) if self.manifest else None

    def patch(self, repository: str) -> str | None:
        """The uncommitted work in a repository, "" where there was none; None where that is not known."""
        known = self.code.repositories.get(repository) if self.code else None
        if known is None or known.problem:
            return None
        if known.patch is None:
            return ""
        try:
            return (self.path / Path(known.patch).name).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None


def gather(run: Path) -> Evidence:
    """Reads all there is of a run.

    Raises:
        RunError: There is no run.
    """
    if not run.is_dir() or not any((run / name).exists() for name in ("manifest.json", "config.yaml", "metrics.jsonl")):
        mend = "name a directory such as runs/clip_emoji"
        raise RunError("this is not the directory of a run", where=str(run), mend=mend)
    problems: list[str] = []
    manifest, data = None, DataRecord()
    try:
        manifest, data = read_manifest(run), read_data_record(run)
        if manifest is None:
            problems.append("it has no manifest.json: of code, packages and machine nothing is known")
    except RunError as error:
        problems.append(error.message)
    if manifest is not None:
        problems += _changes_on_the_way(manifest)
        problems += _missing_code(manifest.code.get(manifest.newest.code))
    try:
        rows = list(read_rows(run / "metrics.jsonl"))
    except RunError as error:
        rows = []
        problems.append(f"{error.message}: {error.where}")
    if not rows:
        problems.append("it has no metrics yet")
    config = manifest.config if manifest is not None else _read_config(run, problems)
    return Evidence(run, read_listed(run), manifest, config, data, rows, problems)


def _read_config(run: Path, problems: list[str]) -> dict[str, Any]:
    try:
        config: Any = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        problems.append(f"its config.yaml cannot be read: {error}")
        return {}
    return masked(config) if isinstance(config, dict) else {}


def _missing_code(code: CodeState | None) -> list[str]:
    if code is None:
        return []
    missing = [f"of the code of {name} not all is recorded: {problem}" for name, problem in code.problems.items()]
    for name, repository in code.repositories.items():
        for file, reason in list((repository.git.omitted if repository.git else {}).items())[:_MOST_NAMED]:
            missing.append(f"the uncommitted {file} is not in the patch of {name}: {reason}")
    return missing


def _changes_on_the_way(manifest: Manifest) -> list[str]:
    """Where a resumed run went on with something else; the newest is what is compared."""
    changes = []
    for before, after in itertools.pairwise(manifest.segments):
        for name in ("code", "packages", "world_size", "strategy"):
            old, new = getattr(before, name), getattr(after, name)
            if old != new and None not in (old, new):
                what = f"{old} -> {new}" if len(str(new)) < 40 else "other hashes"
                changes.append(f"it went on at step {after.from_step} with other {name}: {what}")
    return changes
