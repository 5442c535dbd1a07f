"""The value of a config key in a run, and how it is written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmtrain.errors import ConfigError, did_you_mean
from mmtrain.run.dotted import flatten, has, value_at
from mmtrain.run.report.cases import Case
from mmtrain.run.sweep.grid import value_text


class UnknownValueError(Exception):
    """A run's value of a key is not known."""


def label_of(case: Case, key: str) -> str:
    """The value of a key, as text; of a group such as ``model`` what it was set to.

    Raises:
        UnknownValueError: The run has no such key, or nobody recorded it.
    """
    return as_label(_value(case, key))


def as_label(value: Any) -> str:
    """A value in its shortest exact form: ``1e-4``, ``true``, ``null``, ``[1, 2]``."""
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, list | tuple | Mapping):
        return json.dumps(value, ensure_ascii=False)
    return value_text(value)


def number_of(label: str) -> float | None:
    """The number that a label writes; None where it writes none."""
    try:
        return float(label)
    except ValueError:
        return None


def in_order(labels: Iterable[str]) -> list[str]:
    """Labels without repetition: numbers by size where all are numbers, else as they come."""
    distinct = list(dict.fromkeys(labels))
    numbers = {label: number_of(label) for label in distinct}
    if any(number is None for number in numbers.values()):
        return distinct
    return sorted(distinct, key=lambda label: numbers[label] or 0.0)


def find_label(text: str, labels: Sequence[str], where: str) -> str:
    """The label that a user means by ``text``: 0.0001 means 1e-4.

    Raises:
        ConfigError: There is none.
    """
    number = number_of(text)
    for label in labels:
        if text == label or (number is not None and number == number_of(label)):
            return label
    raise ConfigError(f"there is no value {text!r}", where=where, mend=did_you_mean(text, labels))


def require_keys(cases: Iterable[Case], keys: Iterable[str], where: str) -> None:
    """Refuses a key that no run has.

    Raises:
        ConfigError: With the nearest one.
    """
    cases = list(cases)
    for key in keys:
        if cases and not any(_has(case, key) for case in cases):
            known = {name for case in cases for name in (*flatten(case.config), *case.picks)}
            raise ConfigError(f"no run's config has the key {key!r}", where=where, mend=did_you_mean(key, known))


def chosen(cases: Iterable[Case], where: Mapping[str, str]) -> list[Case]:
    """The runs whose config has these values, as texts; a run that lacks a key is none of them.

    Raises:
        ConfigError: No run has a key, or a key's value is that of no run.
    """
    left = list(cases)
    for key, text in where.items():
        require_keys(left, [key], f"where {key}={text}")
        labels = [(case, label_of(case, key)) for case in left if _has(case, key)]
        label = find_label(text, in_order(label for _, label in labels), f"where {key}={text}")
        left = [case for case, found in labels if found == label]
    return left


def _has(case: Case, key: str) -> bool:
    try:
        _value(case, key)
    except UnknownValueError:
        return False
    return True


def _value(case: Case, key: str) -> Any:
    if has(case.config, key) and not isinstance(value := value_at(case.config, key), Mapping):
        return value
    if key in case.picks:
        return case.picks[key]
    raise UnknownValueError(key)
