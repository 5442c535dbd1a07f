"""From overrides with several values to one list of overrides for each job, and a name that stays."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException

from mmtrain.config.override import parse_override
from mmtrain.errors import ConfigError

RESERVED = {"name": "--name NAME names the sweep", "run.dir": "--name NAME", "run.fresh": "another --name begins anew"}
"""Keys that the sweep sets itself, and what to do instead."""

_PLAIN = re.compile(r"[A-Za-z0-9._=,+-]+")
_LONGEST = 120  # of the 255 bytes of a file name, so that what is moved aside or written beside has room
_HASHED = 100
_LARGE = 1e5  # numbers up to it are written out


@dataclass(frozen=True)
class Job:
    """One configuration of a sweep.

    Attributes:
        overrides: All overrides, in the order of the command line.
        varied: Those of them that the sweep varies.
    """

    overrides: tuple[str, ...]
    varied: tuple[str, ...]

    @property
    def name(self) -> str:
        """A name for the file system, made of the varied overrides alone: other jobs of the grid do not change it.

        What a file name had better not hold is replaced, and a name that was changed or is long ends in a hash.
        """
        text = ",".join(self.varied)
        if _PLAIN.fullmatch(text) and len(text) <= _LONGEST:
            return text
        digest = hashlib.sha256(text.encode()).hexdigest()[:10]
        return f"{re.sub(r'[^A-Za-z0-9._=,+-]+', '_', text)[:_HASHED].strip('_')}-{digest}"


def expand(overrides: Sequence[str], varying: Collection[str] = ()) -> list[Job]:
    """The jobs of a grid: every combination of the values, the last key varying fastest.

    Args:
        overrides: In Hydra's grammar of sweeps: ``seed=1,2,3``, ``model=choice(vit_b)``, ``seed=range(1,4)``.
        varying: Keys that vary already in the plan to which the jobs are added: one value of them names a job, too.

    Raises:
        ConfigError: An override cannot be read, is not for a grid, or is the sweep's own; or nothing varies.
    """
    parsed = [parse(line) for line in overrides]
    refuse_twice(parsed)
    varies = [override.is_sweep_override() or override.get_key_element() in varying for override in parsed]
    if not any(varies):
        raise ConfigError(
            "no override gives several values, so there is nothing to sweep over",
            where="the command line",
            mend="seed=1,2,3 ; one job alone is seed=choice(1)",
        )
    axes = [
        values(override) if varied else [str(override.input_line)]
        for override, varied in zip(parsed, varies, strict=True)
    ]
    return [Job(lines, tuple(itertools.compress(lines, varies))) for lines in itertools.product(*axes)]


def first_values(overrides: Sequence[str]) -> list[str]:
    """The overrides of one job: of several values the first, of an interval its start.

    Raises:
        ConfigError: An override cannot be read.
    """
    parsed = [_read(line) for line in overrides]
    refuse_twice(parsed)
    return [_first_value(override) if override.is_sweep_override() else str(override.input_line) for override in parsed]


def parse(line: str) -> Override:
    """Reads an override of one or several values.

    Raises:
        ConfigError: It cannot be read, or sets what the sweep sets.
    """
    override = _read(line)
    if mend := RESERVED.get(override.key_or_group):
        raise ConfigError(f"a sweep sets {override.key_or_group} itself", where=f"override {line}", mend=mend)
    return override


def refuse_twice(parsed: Sequence[Override]) -> None:
    """Refuses a key with several values that is also set by another override: one of them would be lost.

    Raises:
        ConfigError: There is one.
    """
    keys = [override.key_or_group for override in parsed]
    for override in parsed:
        if override.is_sweep_override() and keys.count(override.key_or_group) > 1:
            raise ConfigError(
                f"{override.key_or_group} is set twice", where=f"override {override.input_line}", mend="remove one"
            )


def values(override: Override) -> list[str]:
    """An override for each value of one with several, or with one.

    Raises:
        ConfigError: They have no order that stays, or one is there twice.
    """
    if not override.is_sweep_override():
        return [f"{override.get_key_element()}={value_text(override._value)}"]
    swept = override.value()
    if isinstance(swept, ChoiceSweep | RangeSweep) and swept.shuffle:
        raise ConfigError(
            "the jobs of a plan have one order", where=f"override {override.input_line}", mend="leave out shuffle()"
        )
    try:
        texts = [value_text(value) for value in override.sweep_iterator()]
    except HydraException as error:
        raise ConfigError(
            f"its values cannot be listed: {error}",
            where=f"override {override.input_line}",
            mend="name them: key=a,b,c ; an interval is for a search: --search tpe",
        ) from error
    for text in texts:
        if texts.count(text) > 1:
            raise ConfigError(f"the value {text} is there twice", where=f"override {override.input_line}")
    return [f"{override.get_key_element()}={text}" for text in texts]


def _read(line: str) -> Override:
    try:
        override = OverridesParser.create().parse_override(line)
    except HydraException:
        override = None
    if override is None or not override.is_sweep_override():
        override = parse_override(line)  # which knows what to say of a line that cannot be read
    return override


def _first_value(override: Override) -> str:
    swept = override.value()
    if isinstance(swept, IntervalSweep):
        return f"{override.get_key_element()}={value_text(swept.start)}"
    return values(override)[0]


def value_text(value: Any) -> str:
    """A value as an override takes it, numbers in their shortest exact form: 1e-4."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return _short(value)
    return Override._get_value_element_as_str(value)


def _short(value: float) -> str:
    plain = repr(value)
    if value == 0 or value != value or value in (float("inf"), float("-inf")):
        return plain
    if 1 <= abs(value) < _LARGE:
        return plain
    sign, digits, exponent = Decimal(plain).normalize().as_tuple()
    assert isinstance(exponent, int), "infinities are shown as they are"
    mantissa = "".join(map(str, digits))
    point = mantissa[0] + (f".{mantissa[1:]}" if len(mantissa) > 1 else "")
    scientific = f"{'-' * sign}{point}e{exponent + len(mantissa) - 1}"
    return min(plain, scientific, key=len)
