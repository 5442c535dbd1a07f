"""All runs below some directories as a folder of event files, kept up to date. Loads no PyTorch: it starts at once."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmtrain.run.dotted import flatten
from mmtrain.run.listing import ListedRun, list_runs
from mmtrain.run.report.events import RunEvents

_SEARCH_SECONDS = 20.0
_PLACES = ("name", "run.", "logger.")
_Value = bool | int | float | str


class Feed:
    """Feeds TensorBoard with the runs of some directories.

    Args:
        roots: Directories of runs, in which sweeps may be nested; or runs.
        folder: Where the event files go, a folder for each run, named as the run is.
        clock: Seconds, for how often new runs are looked for.

    Raises:
        RunError: A root is no directory.
    """

    def __init__(self, roots: Sequence[Path], folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.roots = roots
        self.folder = folder
        self._clock = clock
        self._runs: dict[Path, RunEvents] = {}
        self._varied: dict[str, None] = {}
        self._search(roots)

    def __len__(self) -> int:
        """Runs found so far."""
        return len(self._runs)

    @property
    def damaged(self) -> dict[Path, int]:
        """Damaged rows by run, of the runs that have some."""
        return {path: run.damaged for path, run in self._runs.items() if run.damaged}

    def refresh(self) -> int:
        """Writes what is new, and looks for new runs now and then.

        Returns:
            Runs that something was written of.
        """
        if self._clock() - self._searched >= _SEARCH_SECONDS:
            self._search([root for root in self.roots if root.is_dir()])
        return sum([run.refresh() for run in self._runs.values()])

    def _search(self, roots: Sequence[Path]) -> None:
        self._searched = self._clock()
        found = [(root, run) for root in roots for run in list_runs([root], with_config=True)]
        new = [(root, run) for root, run in found if run.path.resolve() not in self._runs]
        settings = [_settings(run.config) for _, run in found if run.config]
        for key in sorted({key for leaves in settings for key in leaves}):
            if len({leaves.get(key) for leaves in settings}) > 1:
                self._varied[key] = None
        # The newest first: they are what is looked for while thousands are still being read.
        for root, run in sorted(new, key=lambda pair: pair[1].started_at or "", reverse=True):
            own = {key: value for key, value in _settings(run.config).items() if key in self._varied}
            self._runs[run.path.resolve()] = RunEvents(run.path, self.folder / self._name(root, run), own)

    def _name(self, root: Path, run: ListedRun) -> str:
        """Where the run lies below its root; several roots, or a run that is one, go by their own names."""
        below = os.path.relpath(run.path, root)
        if below == ".":
            return run.path.resolve().name
        if len(self.roots) == 1:
            return below
        return os.path.join(os.path.relpath(root).replace("..", "_").lstrip("/"), below)


def _settings(config: Mapping[str, Any]) -> dict[str, _Value]:
    """The values of a config by dotted key, those that name a run or its place left out."""
    return {
        key: value if isinstance(value, bool | int | float | str) else json.dumps(value)
        for key, value in flatten(config).items()
        if not key.startswith(_PLACES)
    }
