"""The manifest of a run: what was run, on what code, data and machine, when, and what came out."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydantic

from mmtrain.callback.checkpoint_io import write_json
from mmtrain.errors import RunError
from mmtrain.run.code_state import CodeState
from mmtrain.run.data_record import DataRecord
from mmtrain.run.energy import Energy
from mmtrain.run.environment import Environment
from mmtrain.run.manifest_file import NAME, SCHEMA, read_manifest_json

RNG_POLICY = (
    "Nothing is drawn from a state that goes on: python, numpy and torch are seeded anew before every step by"
    " blake2b(seed/train/step/rank), before every validation by blake2b(seed/eval/step/rank), and for the first weights"
    " by blake2b(seed/init) (mmtrain/callback/rng.py); the data's order and draws are functions of seed, epoch and"
    " sample."
)


@dataclass(frozen=True)
class Segment:
    """One process of the run, from its start to its end.

    Clocks are for people: nothing is computed from them.

    Attributes:
        started_at: UTC, ISO 8601.
        host: Machine of rank 0.
        command: The command line, without secrets.
        overrides: The run's overrides, without secrets.
        cwd: The working directory, which relative paths of the config start from.
        job: SLURM's id of the job; None outside SLURM.
        config_sha256: Of the config, without secrets.
        commit: Git commit of mmtrain; None outside git.
        code: Key in the manifest's ``code``: sha256 of all source files.
        packages: Key in the manifest's ``packages``.
        environment: Key in the manifest's ``environments``.
        from_step: Steps that were completed before; None where it ended before that was known.
        world_size: Ranks.
        strategy: Class of Lightning's strategy.
        precision: Numerics of the forward pass.
        threads: Intra-op threads of rank 0.
        ended_at: UTC; None while it runs and where nothing could be written any more.
        to_step: Steps completed at its end.
        reason: ``finished``, ``preempted``, ``failed: MESSAGE``, or ``killed``, which the next start finds; None while
            it runs.
        energy: Where it could be read.
    """

    started_at: str
    host: str
    command: list[str]
    overrides: list[str]
    cwd: str
    job: str | None
    config_sha256: str
    commit: str | None
    code: str
    packages: str
    environment: str
    from_step: int | None = None
    world_size: int | None = None
    strategy: str | None = None
    precision: str | None = None
    threads: int | None = None
    ended_at: str | None = None
    to_step: int | None = None
    reason: str | None = None
    energy: Energy | None = None


@dataclass(frozen=True)
class Best:
    """The best evaluation so far.

    Attributes:
        monitor: The metric that decides.
        step: Steps completed.
        metrics: All metrics of that step.
    """

    monitor: str
    step: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class Manifest:
    """The manifest. What lists of runs show stands first in the file.

    Attributes:
        schema: Version of this form.
        mmtrain: Version of mmtrain that wrote it.
        name: Of the run.
        total_steps: Steps of the whole run; None until they are known.
        segments: The history, in its order.
        best: None where no metric decides.
        final: Last value of each metric; empty until a segment ended.
        weights_sha256: Of the last checkpoint's weights, once the run is finished: see `weights_sha256`.
        config: The config of the newest segment, resolved, without secrets.
        config_sha256: Of ``config``.
        seed: Of everything random.
        rng_policy: What the seed becomes.
        data: Fingerprints, classes and licence of the data.
        code: Code of the segments, by the sha256 of its source files.
        packages: Installed packages of the segments, by their hash: name to version.
        environments: Machines and versions of the segments, by their hash.
        earlier_configs: Configs of earlier segments, where they differ from ``config``, by their hash.
        shards: sha256 of each shard, by source and file name; of sources whose shards could be listed at the start.
    """

    schema: int
    mmtrain: str
    name: str
    total_steps: int | None
    segments: list[Segment]
    best: Best | None
    final: dict[str, float]
    weights_sha256: str | None
    config: dict[str, Any]
    config_sha256: str
    seed: int
    rng_policy: str
    data: DataRecord
    code: dict[str, CodeState] = field(default_factory=dict)
    packages: dict[str, dict[str, str]] = field(default_factory=dict)
    environments: dict[str, Environment] = field(default_factory=dict)
    earlier_configs: dict[str, dict[str, Any]] = field(default_factory=dict)
    shards: dict[str, dict[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.schema == SCHEMA, "require_schema() has refused it"

    @property
    def newest(self) -> Segment:
        """The newest segment."""
        return self.segments[-1]

    def as_of(self, number: int) -> Manifest:
        """The manifest as if the segment of this number, from 0, were the newest."""
        segment = self.segments[number]
        config = self.earlier_configs.get(segment.config_sha256, self.config)
        return dataclasses.replace(self, segments=self.segments[: number + 1], config=config)


_READER = pydantic.TypeAdapter(Manifest)


def read_manifest(run: Path) -> Manifest | None:
    """The manifest of a run; None where it has none.

    Raises:
        RunError: It is damaged, or of another schema.
    """
    content = read_manifest_json(run)
    if content is None:
        return None
    try:
        return _READER.validate_python(content)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        raise RunError(
            f"the manifest is damaged: {'.'.join(map(str, first['loc']))}: {first['msg']}",
            where=str(run / NAME),
            mend="restore it from a backup, or move it aside to go on without it",
        ) from error


def write_manifest(run: Path, manifest: Manifest) -> None:
    """Writes ``manifest.json`` atomically."""
    write_json(run / NAME, _json(dataclasses.asdict(manifest)))


def _json(value: Any) -> Any:
    """JSON has no NaN: what is not finite is written as in ``metrics.jsonl``, as a string."""
    if isinstance(value, dict):
        return {key: _json(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_json(child) for child in value]
    if isinstance(value, float) and value != value:
        return "NaN"
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return "Infinity" if value > 0 else "-Infinity"
    return value
