"""``python -m mmtrain doctor [overrides]``: how fast a config's data comes here, and what bounds it."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from mmtrain.command.data.table import print_table
from mmtrain.config import Root, compose, typed, validate
from mmtrain.data import Loader, Samples
from mmtrain.data.doctor.examine import Examination, Setting, examine
from mmtrain.data.doctor.layout import Layout, Walk, layout, layout_findings, walk, world_sizes
from mmtrain.data.doctor.stages import Speed, Staged
from mmtrain.data.doctor.verdict import Finding, Training, verdict
from mmtrain.errors import ConfigError
from mmtrain.logger.rows import read_rows
from mmtrain.run.build import build_data, data_parallel_size, world_size

_RECENT = 20  # rows of a run's speed whose median counts


def doctor(argv: Sequence[str]) -> None:
    """Measures what the overrides describe, and prints tables and what they mean.

    Raises:
        UserError: A mistake in the config, or in the data.
    """
    parser = argparse.ArgumentParser(
        "python -m mmtrain doctor", description="Says how fast the data plane is here, what bounds it, what to change."
    )
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="as for training: experiment=clip_emoji")
    parser.add_argument("--seconds", type=float, default=2.0, help="time for each figure (2)")
    parser.add_argument("--scan", action="store_true", help="try every power of two of workers, up to the cores")
    parser.add_argument(
        "--config-dir", type=Path, action="append", default=[], help="your own configs; may be repeated"
    )
    arguments = parser.parse_intermixed_args(argv)
    if arguments.seconds <= 0:
        raise ConfigError(f"{arguments.seconds} seconds", where="--seconds", mend="give each figure some time: 2")
    composed = compose(arguments.overrides, extra_dirs=arguments.config_dir)
    validate(composed)
    config = typed(composed.config)
    data = build_data(config)
    data.prepare()
    loader = data.train_loader(0, data_parallel_size(config))
    if not isinstance(loader, Loader):
        mend = "have data.train_loader() return a mmtrain.data.Loader"
        raise ConfigError(f"the doctor cannot measure a {type(loader).__name__}", where="data._target_", mend=mend)
    console = Console(stderr=True)
    with console.status("measuring") as status:
        examination = examine(
            loader,
            _setting(config),
            data.stages() if isinstance(data, Staged) else None,
            seconds=arguments.seconds,
            scan=arguments.scan,
            has_kinds="workers" in config.data,
            progress=lambda what: status.update(f"measuring: {what}"),
        )
    _print_stages(config.name, examination)
    findings = verdict(examination, _training(Path(config.run.dir)))
    whole = data.train_loader(0, 1)
    assert isinstance(whole, Loader)
    findings += _print_layout(config, whole, examination)
    _print_findings(findings)


def _setting(config: Root) -> Setting:
    # A data node has these where it can choose; what it leaves out, its loader leaves at the default.
    chosen = {name: config.data[name] for name in ("workers", "prefetch") if name in config.data}
    return Setting(
        config.data["num_workers"],
        world_size=data_parallel_size(config),
        ranks_per_node=world_size(config) // config.trainer.num_nodes,
        **chosen,
    )


def _training(run: Path) -> Training | None:
    """The speed of the run of this name, if there is one."""
    speed, wait = "throughput/samples_per_second", "throughput/data_wait"
    rows = [row for row in read_rows(run / "metrics.jsonl") if speed in row][-_RECENT:]
    if not rows:
        return None
    return Training(*(statistics.median(row[name] for row in rows) for name in (speed, wait)))


def _print_stages(name: str, examination: Examination) -> None:
    setting = examination.setting
    cut = f" (the first {examination.rows} rows)" if examination.rows < examination.share else ""
    alone = f"rank 0 of {setting.world_size}, alone on {setting.cores} cores"
    title = f"{name}: {alone}; batches of {examination.share}{cut}"
    rows = [_row(stage, speed, note) for stage, speed, note in _stage_rows(examination)]
    columns = ("stage", "samples/s", "us/sample", "MB/s", "cores", "note")
    print_table(title, columns, rows, left=("stage", "note"), whole=("stage",))


def _stage_rows(examination: Examination) -> Iterator[tuple[str, Speed, str]]:
    setting, reading = examination.setting, examination.reading
    yield "read, first", reading.first, f"{reading.from_disk:.0%} from disk"
    yield "read, again", reading.again, "verified"
    yield "read, again", reading.unverified, "not verified"
    for name, speed in examination.stages.items():
        yield name, speed, ""
    batches = examination.transport.samples_per_second / examination.rows
    yield "transport", examination.transport, f"{batches:,.0f} batches/s"
    yield "whole, no workers", examination.inline, _config_if(setting.num_workers == 0)
    for number, speed in examination.whole.items():
        yield f"whole, {number} x {setting.workers}", speed, _config_if(number == setting.num_workers)
    if examination.other_kind is not None:
        number = setting.num_workers or setting.cores_per_rank
        yield f"whole, {number} x {setting.other_workers}", examination.other_kind, ""


def _config_if(yes: bool) -> str:
    return "the config" if yes else ""


def _row(stage: str, speed: Speed, note: str) -> list[str]:
    size = f"{speed.mb_per_second:,.0f}" if speed.bytes else ""
    return [stage, f"{speed.samples_per_second:,.0f}", f"{speed.us_per_sample:,.1f}", size, f"{speed.cores:.2f}", note]


def _print_layout(config: Root, loader: Loader, examination: Examination) -> list[Finding]:
    """Prints what falls on the ranks; returns what that costs."""
    assert isinstance(loader.maker, Samples), "examine() took no other"
    readers = [source.reader for source in loader.maker.sources]
    walked = walk(loader.plan, readers)
    ranks = data_parallel_size(config)
    placed = {ranks: layout(walked, ranks) for ranks in world_sizes(ranks)}
    title = (
        f"shards on ranks: {len(walked.shard_bytes):,} shards of {walked.shard_samples:,.0f} samples, walked for "
        f"{walked.steps} steps"
    )
    columns = ("ranks", "rows", "lanes", "open", "a step", f"{walked.steps} steps", "read again")
    print_table(title, columns, [_layout_row(walked, row) for row in placed.values()], left=())
    fetched = any(reader.manifest.is_remote for reader in readers)
    return list(
        layout_findings(
            walked,
            placed[ranks],
            max_open=min(reader.max_open for reader in readers),
            opening_us=examination.reading.opening_us,
            reading_us=examination.reading.again.us_per_sample,
            fetched_by=config.trainer.num_nodes if fetched else 1,
        )
    )


def _layout_row(walked: Walk, row: Layout) -> list[str]:
    if row.rows is None:
        return [str(row.world_size), f"{walked.global_batch_size} does not divide", *[""] * 5]
    return [
        str(row.world_size),
        f"{row.rows:,}",
        "" if row.lanes is None else str(row.lanes),
        "" if row.open_shards is None else f"{row.open_shards:,}",
        f"{row.shards_per_step:,.1f}",
        f"{row.shards_walked:,}",
        f"{row.shared:.0%}",
    ]


def _print_findings(findings: Sequence[Finding]) -> None:
    console = Console()
    for finding in findings:
        console.print(f"- {finding.text}", markup=False, highlight=False, soft_wrap=True)
        if finding.override is not None:
            console.print(f"    {finding.override}", markup=False, highlight=False, soft_wrap=True)
