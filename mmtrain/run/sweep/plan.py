"""The plan of a sweep: one line a job, in a file that every process of the sweep reads and only the command writes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from mmtrain.callback.checkpoint_io import write_atomically, write_json
from mmtrain.config import compose
from mmtrain.errors import ConfigError, RunError, did_you_mean
from mmtrain.run.directory import RunDirectory, config_differences
from mmtrain.run.sweep.grid import Job

ROOT = Path("sweeps")


@dataclass(frozen=True)
class Element:
    """A job of a sweep: a line of the plan.

    Attributes:
        index: What an array task is told; it never changes.
        name: Its run's name.
        run: Its run directory, below the sweep's.
        overrides: All overrides that it is composed from, but for the name and the run directory.
        varied: Those that tell it from the other jobs.
        config_dirs: Further config directories, absolute.
    """

    index: int
    name: str
    run: str
    overrides: tuple[str, ...]
    varied: tuple[str, ...]
    config_dirs: tuple[str, ...]


@dataclass(frozen=True)
class Sweep:
    """The directory of a sweep."""

    path: Path

    @property
    def plan(self) -> Path:
        """The jobs."""
        return self.path / "plan.jsonl"

    @property
    def base(self) -> Path:
        """What the plan was made with: the overrides and the resolved config of its first job."""
        return self.path / "base.json"

    @property
    def submissions(self) -> Path:
        """The arrays that were handed to SLURM."""
        return self.path / "submissions.jsonl"

    @property
    def logs(self) -> Path:
        """What the jobs' processes said."""
        return self.path / "logs"

    def run(self, element: Element) -> RunDirectory:
        """The run directory of a job."""
        return RunDirectory(self.path / element.run)

    def elements(self) -> list[Element]:
        """The plan, in the order of indices.

        Raises:
            RunError: There is none, or a line of it is damaged.
        """
        if not self.plan.exists():
            others = [path.parent.name for path in self.path.parent.glob("*/plan.jsonl")]
            mend = did_you_mean(self.path.name, others) if others else "name one such as sweeps/clip_emoji"
            raise RunError("this is not the directory of a sweep", where=str(self.path), mend=mend)
        elements = []
        for number, line in enumerate(self.plan.read_text().splitlines(), start=1):
            try:
                fields = json.loads(line)
                lists = {key: tuple(value) for key, value in fields.items() if isinstance(value, list)}
                elements.append(Element(**(fields | lists)))
            except (ValueError, TypeError) as error:
                raise RunError("a line of the plan is damaged", where=f"{self.plan}:{number}") from error
        return sorted(elements, key=lambda element: element.index)

    def element(self, index: int) -> Element:
        """The job of an index.

        Raises:
            RunError: The plan has none.
        """
        elements = {element.index: element for element in self.elements()}
        if index not in elements:
            raise RunError(f"the plan has no job {index}", where=str(self.plan), mend=f"it has {len(elements)} jobs")
        return elements[index]

    def base_config(self) -> dict[str, Any]:
        """The resolved config of the first job."""
        config: dict[str, Any] = json.loads(self.base.read_text())["config"]
        return config

    def base_overrides(self) -> tuple[str, ...]:
        """What the config of the first job was composed from."""
        return tuple(json.loads(self.base.read_text())["overrides"])

    def was_begun(self) -> bool:
        """Whether any job of it was started or handed to SLURM."""
        return self.submissions.exists() or any((self.path / "runs").glob("*")) or any(self.logs.glob("*"))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Held by a command while it changes the plan or submits jobs: another one waits."""
        self.logs.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path / ".lock"):
            yield


def sweep_directory(name: str) -> Sweep:
    """The sweep of a name.

    Raises:
        ConfigError: The name is no name of a directory.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._=,+-]*", name):
        raise ConfigError(f"{name!r} cannot name a sweep", where="--name", mend="use letters, digits and . _ - = , +")
    return Sweep(ROOT / name)


def merge(old: Sequence[Element], jobs: Iterable[Job], config_dirs: Sequence[Path]) -> tuple[list[Element], list[int]]:
    """Adds the jobs to a plan. Those that it has keep index, name and run, whatever the order of their keys.

    Returns:
        The plan, and the indices of ``jobs``.
    """
    merged = {frozenset(element.varied): element for element in old}
    directories = tuple(str(path.resolve()) for path in config_dirs)
    indices = []
    for job in jobs:
        key = frozenset(job.varied)
        if key in merged:
            merged[key] = replace(merged[key], overrides=job.overrides, config_dirs=directories)
        else:
            index = 1 + max((element.index for element in merged.values()), default=-1)
            merged[key] = Element(index, job.name, f"runs/{job.name}", job.overrides, job.varied, directories)
        indices.append(merged[key].index)
    plan = sorted(merged.values(), key=lambda element: element.index)
    assert len({element.name for element in plan}) == len(plan), "a name is made of what tells a job from the others"
    return plan, indices


def refuse_other_config(sweep: Sweep, overrides: Sequence[str], config_dirs: Sequence[Path], mend: str) -> None:
    """Refuses to go on with a plan whose first job would have another config now: its runs could not be compared.

    Args:
        sweep: With a plan.
        overrides: Those of its first job.
        config_dirs: Further config directories.
        mend: What to do about a difference.

    Raises:
        ConfigError: It cannot be composed any more.
        RunError: It tells the differences.
    """
    config = compose(overrides, extra_dirs=config_dirs).config
    if differences := config_differences(sweep.base_config(), config):
        lines = [f"{key}: {old} -> {new}" for key, (old, new) in differences.items()]
        raise RunError(
            "the sweep was planned with another config:\n    " + "\n    ".join(lines), where=str(sweep.path), mend=mend
        )


def write_base(sweep: Sweep, overrides: Sequence[str], config: Mapping[str, Any]) -> None:
    """Notes what a new plan is made with."""
    write_json(sweep.base, {"overrides": list(overrides), "config": dict(config)})


def write_plan(sweep: Sweep, elements: Sequence[Element]) -> None:
    """Writes a plan."""
    content = "".join(json.dumps(asdict(element), ensure_ascii=False) + "\n" for element in elements)
    write_atomically(sweep.plan, lambda file: file.write(content.encode()))
