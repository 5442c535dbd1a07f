"""What measurements say: what bounds the data plane, and what to set. Every suggestion states what it is drawn from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mmtrain.data.doctor.examine import Examination

_WORTH_IT = 1.1  # times faster; what is less drowns in the noise of a shared machine
_SATURATED = 0.95  # of the best speed: more workers would only take memory
_NEAR_TRANSPORT = 0.6  # of the transport's speed: workers then spend much of their time on handing over
_FROM_DISK = 0.1  # of the bytes read first: less is an accident
_ALONE = 0.8  # of a core: a loop that waits for nothing gets less where other programs run
_WAITS = 0.05  # of the training's time: what more workers could win


@dataclass(frozen=True)
class Finding:
    """Something to know, and what to type where something should be done.

    Attributes:
        text: In words, with the figures it is drawn from.
        override: Override or command; None where nothing is to be done.
    """

    text: str
    override: str | None = None


@dataclass(frozen=True)
class Training:
    """How fast a run of the same config has trained.

    Attributes:
        samples_per_second: Over all ranks.
        data_wait: Share of the time that it waited for data.
    """

    samples_per_second: float
    data_wait: float


def verdict(examination: Examination, training: Training | None = None) -> list[Finding]:
    """What bounds, whether training is held up by it, and, unless it is known not to be, what would be faster."""
    findings = [*_busy(examination), _bound(examination)]
    enough = False
    if training is not None:
        enough = _keeps_up(examination, training)
        findings.append(_comparison(examination, training, enough))
    findings += _workers(examination, enough)
    if not enough:
        findings += _kind(examination)
        findings += _smaller(examination)
    return [*findings, *_reading(examination)]


def bound(examination: Examination) -> str:
    """What takes most of the time: ``transport``, ``read``, or a stage of preparing a sample."""
    setting = examination.setting
    near = examination.configured.samples_per_second > _NEAR_TRANSPORT * examination.transport.samples_per_second
    if near and setting.num_workers > 0 and setting.workers == "process":
        return "transport"
    costs = stage_costs(examination)
    return max(costs, key=lambda name: costs[name])


def stage_costs(examination: Examination) -> dict[str, float]:
    """Microseconds of a worker that each stage takes of a sample when nothing else runs, reading included."""
    reading = examination.reading
    # The wait for a disk is a worker's, too.
    read = reading.first.us_per_sample if reading.from_disk >= _FROM_DISK else reading.again.cpu_us_per_sample
    return {"read": read} | {name: speed.cpu_us_per_sample for name, speed in examination.stages.items()}


def _bound(examination: Examination) -> Finding:
    name, speed = bound(examination), examination.configured
    if name == "transport":
        text = (
            f"The way from the workers bounds: {_rate(speed.samples_per_second)} come, of "
            f"{_rate(examination.transport.samples_per_second)} when workers prepare nothing."
        )
        return Finding(text)
    costs = stage_costs(examination)
    total = sum(costs.values())
    share = f"{costs[name]:,.0f} of the {total:,.0f} us that a sample takes of a worker ({costs[name] / total:.0%})"
    return Finding(f"{name.capitalize()} bounds: {share}.")


def _keeps_up(examination: Examination, training: Training) -> bool:
    return training.data_wait < _WAITS and _per_rank(examination) > _need(examination, training)


def _need(examination: Examination, training: Training) -> float:
    return training.samples_per_second / examination.setting.world_size


def _per_rank(examination: Examination) -> float:
    """Samples a second of a rank, when all ranks of the node share its cores."""
    setting = examination.setting
    all_cores = setting.cores / sum(stage_costs(examination).values()) * 1e6
    return min(examination.configured.samples_per_second, all_cores / setting.ranks_per_node)


def _comparison(examination: Examination, training: Training, enough: bool) -> Finding:
    have, need = _per_rank(examination), _need(examination, training)
    figures = (
        f"each rank can have {_rate(have)}, and took {_rate(need)} in the run of this name, waiting for data for "
        f"{training.data_wait:.1%} of the time"
    )
    return Finding(f"The data keeps up with the training: {figures}." if enough else f"Training waits: {figures}.")


def _workers(examination: Examination, enough: bool) -> Iterator[Finding]:
    setting, now = examination.setting, examination.configured.samples_per_second
    room = setting.cores_per_rank
    fitting = {number: speed for number, speed in examination.whole.items() if number <= room}
    fastest = max(speed.samples_per_second for speed in fitting.values())
    best = next(n for n, speed in sorted(fitting.items()) if speed.samples_per_second >= _SATURATED * fastest)
    there = fitting[best].samples_per_second
    override = f"data.num_workers={best}"
    if setting.num_workers > room:
        text = (
            f"{setting.num_workers} workers for each of {setting.ranks_per_node} ranks share {setting.cores} cores: "
            f"{best} give a rank {_rate(there)}, and {setting.num_workers} give it {_rate(now)} when it is alone."
        )
        yield Finding(text, override)
    elif enough:
        return
    elif bound(examination) == "transport" and examination.inline.samples_per_second > _WORTH_IT * max(now, fastest):
        text = (
            f"Without workers, batches come faster: {_rate(examination.inline.samples_per_second)} instead of "
            f"{_rate(now)}; they are then prepared while the device waits."
        )
        yield Finding(text, "data.num_workers=0")
    elif there > _WORTH_IT * now:
        text = f"{_workers_give(best, there)}, {_workers_give(setting.num_workers, now)} (cores of a rank: {room})."
        yield Finding(text, override)
    elif now >= _SATURATED * fastest:
        yield Finding(f"{_workers_give(setting.num_workers, now)}; more would bring no more (cores of a rank: {room}).")


def _kind(examination: Examination) -> Iterator[Finding]:
    setting, other = examination.setting, examination.other_kind
    if other is None or setting.num_workers == 0:
        return
    now = examination.configured.samples_per_second
    if other.samples_per_second > _WORTH_IT * now:
        kind = setting.other_workers
        text = f"Workers of the kind {kind} give {_rate(other.samples_per_second)} instead of {_rate(now)}."
        yield Finding(text, f"data.workers={kind}")


def _smaller(examination: Examination) -> Iterator[Finding]:
    smaller = examination.smaller
    if smaller is None or smaller.now.cpu_us_per_sample < _WORTH_IT * smaller.then.cpu_us_per_sample:
        return
    bytes_now, bytes_then = (speed.bytes / speed.samples / 1e3 for speed in (smaller.now, smaller.then))
    us_now, us_then = smaller.now.cpu_us_per_sample, smaller.then.cpu_us_per_sample
    text = (
        f"Pictures stored with a shorter side of {smaller.side} pixels take {us_then:,.0f} us of a worker to prepare "
        f"instead of {us_now:,.0f}, and {bytes_then:,.0f} kB to read instead of {bytes_now:,.0f}; small crops lose "
        "detail."
    )
    yield Finding(text, f"python -m mmtrain data pack images FOLDER --resize {smaller.side} --out DIR")


def _reading(examination: Examination) -> Iterator[Finding]:
    reading = examination.reading
    if reading.from_disk >= _FROM_DISK:
        need = examination.configured.samples_per_second * reading.first.bytes / reading.first.samples / 1e6
        yield Finding(
            f"{reading.from_disk:.0%} of what was read first came from a disk, at {reading.first.mb_per_second:,.0f} "
            f"MB/s for one reader; from memory it is {reading.again.mb_per_second:,.0f}. At the speed of the whole "
            f"pipeline, a rank reads {need:,.0f} MB/s."
        )
    verification = max(0.0, reading.again.cpu_us_per_sample - reading.unverified.cpu_us_per_sample)
    share = verification / sum(stage_costs(examination).values())
    yield Finding(f"Comparing checksums takes {verification:.1f} us of a sample, {share:.1%} of a worker's time.")


def _busy(examination: Examination) -> Iterator[Finding]:
    wall = sum(speed.us_per_sample for speed in examination.stages.values())
    core = sum(speed.cpu_us_per_sample for speed in examination.stages.values()) / wall
    if core < _ALONE:
        yield Finding(f"Other programs run here: work that waits for nothing got {core:.0%} of a core. Measure again.")
        return
    setting = examination.setting
    number = max((number for number in examination.whole if number <= setting.cores), default=1)
    if number == 1 or setting.workers == "thread" or bound(examination) in ("transport", "read"):
        return  # they wait for other things, too
    if examination.whole[number].cores < _ALONE * number:
        got = examination.whole[number].cores
        yield Finding(f"{number} workers got {got:.1f} cores together: other programs, or a quota, take the others.")


def _workers_give(number: int, samples_per_second: float) -> str:
    return f"{number} {'worker gives' if number == 1 else 'workers give'} {_rate(samples_per_second)}"


def _rate(samples_per_second: float) -> str:
    return f"{samples_per_second:,.0f} samples/s"
