"""All measurements of a training loader, in the order that makes later ones cheap."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from mmtrain.data.doctor.pipeline import FirstRows, measure_pipeline, measure_transport, rows_to_measure, usable_cores
from mmtrain.data.doctor.smaller import Smaller, measure_smaller
from mmtrain.data.doctor.stages import (
    Item,
    Reading,
    Speed,
    Stage,
    measure_filling,
    measure_reading,
    measure_stages,
    pool,
)
from mmtrain.data.loader.loader import Loader, WorkerKind
from mmtrain.data.loader.samples import Samples
from mmtrain.data.plan.draw import SampleSeed
from mmtrain.data.plan.share import Plan
from mmtrain.data.shards.index import RawSample
from mmtrain.errors import ConfigError

_ROWS_OF_EXAMPLE = 64


@dataclass(frozen=True)
class Setting:
    """What a config says about a rank's workers, and where they run.

    Attributes:
        num_workers: Workers of a rank.
        workers: Their kind.
        prefetch: Batches that they prepare ahead.
        world_size: Ranks of the job that have samples of their own.
        ranks_per_node: Ranks that share this machine.
        cores: Cores of this machine that may be used.
    """

    num_workers: int
    workers: WorkerKind = "process"
    prefetch: int = 4
    world_size: int = 1
    ranks_per_node: int = 1
    cores: int = field(default_factory=usable_cores)

    @property
    def cores_per_rank(self) -> int:
        """Cores that a rank may keep busy without taking another's."""
        return max(1, self.cores // self.ranks_per_node)

    @property
    def other_workers(self) -> WorkerKind:
        """The kind of workers that the config does not take."""
        return "process" if self.workers == "thread" else "thread"


@dataclass(frozen=True)
class Examination:
    """What was measured of one rank, alone on this machine.

    Attributes:
        setting: What the config says.
        share: Rows of a rank's batch.
        rows: Rows of the batches that were measured: of large ones, only the first.
        reading: How fast samples are read.
        stages: What each stage of preparing a sample adds, on one core; the last is to put it into the batch.
        inline: The whole, without workers.
        whole: The whole by the number of workers: the config's, as many as a rank has cores, and others if asked for.
        other_kind: The whole with workers of the other kind; None where the config cannot choose.
        transport: Batches of workers that prepare nothing.
        smaller: What smaller pictures would save; None where they are small, or there are none.
    """

    setting: Setting
    share: int
    rows: int
    reading: Reading
    stages: Mapping[str, Speed]
    inline: Speed
    whole: Mapping[int, Speed]
    other_kind: Speed | None
    transport: Speed
    smaller: Smaller | None

    @property
    def configured(self) -> Speed:
        """The whole as the config has it."""
        return self.inline if self.setting.num_workers == 0 else self.whole[self.setting.num_workers]


def examine(
    loader: Loader,
    setting: Setting,
    stages: Mapping[str, Stage] | None,
    *,
    seconds: float = 2.0,
    scan: bool = False,
    has_kinds: bool = True,
    progress: Callable[[str], None] = lambda what: None,
) -> Examination:
    """Measures a rank's loader; what it was given beside its maker and its plan is not used.

    Args:
        loader: The loader.
        setting: How the config has it run.
        stages: Of preparing a sample, each with all before it; None takes the whole for one.
        seconds: Time for each figure.
        scan: Whether to try every power of two of workers, up to the cores.
        has_kinds: Whether the config can choose between processes and threads.
        progress: Told what is measured next.

    Raises:
        ConfigError: The loader's batches are not made of samples.
        DataError: A sample cannot be used, and faults are not skipped; or none can.
    """
    samples, plan = loader.maker, loader.plan
    if not isinstance(samples, Samples):
        mend = "read throughput/data_wait of a training run"
        raise ConfigError("the doctor knows batches of single samples only", where="data", mend=mend)

    def encode(raw: RawSample, seed: SampleSeed) -> object:
        return samples.sources[seed.source].encode(raw, seed)

    progress("reading")
    reading = measure_reading(samples, plan, seconds)
    items = pool(samples, plan, seconds)
    progress("the stages of a sample")
    by_stage = measure_stages(items, stages or {"prepare": encode}, seconds)
    numbers = _numbers(setting, scan)
    share = len(plan.share(0, 0))
    us = reading.again.us_per_sample + sum(speed.us_per_sample for speed in by_stage.values())
    rows = rows_to_measure(share, us, max(numbers), seconds)
    cut: Plan = FirstRows(plan, rows)
    filling = measure_filling(samples, cut, seconds)
    progress("no workers")
    inline = measure_pipeline(samples, cut, seconds, num_workers=0)
    whole = {}
    for number in numbers:
        progress(f"{number} workers")
        whole[number] = _pipeline(samples, cut, seconds, setting, number, setting.workers)
    other_kind = None
    if has_kinds:
        progress(f"workers of the kind {setting.other_workers}")
        number = setting.num_workers or setting.cores_per_rank
        other_kind = _pipeline(samples, cut, seconds, setting, number, setting.other_workers)
    progress("transport")
    workers = setting.num_workers or setting.cores_per_rank
    transport = measure_transport(samples, cut, seconds, num_workers=workers, prefetch=setting.prefetch)
    progress("smaller pictures")
    return Examination(
        setting=setting,
        share=share,
        rows=rows,
        reading=reading,
        stages={**by_stage, "collate": _rest(filling, [reading.again, *by_stage.values()])},
        inline=inline,
        whole=whole,
        other_kind=other_kind,
        transport=transport,
        smaller=_smaller(samples, plan, items, encode, seconds),
    )


def _numbers(setting: Setting, scan: bool) -> list[int]:
    """Numbers of workers to measure."""
    numbers = {setting.num_workers, setting.cores_per_rank} - {0}
    if scan:
        numbers |= {2**power for power in range(setting.cores.bit_length())} | {setting.cores}
    return sorted(numbers)


def _pipeline(
    samples: Samples, plan: Plan, seconds: float, setting: Setting, number: int, workers: WorkerKind
) -> Speed:
    return measure_pipeline(samples, plan, seconds, num_workers=number, workers=workers, prefetch=setting.prefetch)


def _rest(filling: Speed, explained: Iterable[Speed]) -> Speed:
    """What the stages leave of a worker's processor time: to copy into the batch."""
    left = filling.cpu_us_per_sample - sum(speed.cpu_us_per_sample for speed in explained)
    seconds = max(1e-9, filling.samples * left / 1e6)
    return Speed(filling.samples, seconds, seconds)


def _smaller(samples: Samples, plan: Plan, items: list[Item], encode: Stage, seconds: float) -> Smaller | None:
    view = samples.fields(plan.share(0, 0).rows(0, _ROWS_OF_EXAMPLE)).get("image")
    if view is None or len(view.shape) != 3:
        return None
    return measure_smaller(items, encode, min(view.shape[1:]), seconds)
