"""What a report consists of: tables and figures by name, from a command line or from a file such as ``paper.yaml``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import yaml
from omegaconf._utils import get_yaml_loader

from mmtrain.errors import ConfigError, did_you_mean
from mmtrain.run.report.curves import FigureQuestion
from mmtrain.run.report.metric import At
from mmtrain.run.report.question import Question
from mmtrain.run.report.significance import Test
from mmtrain.run.report.values import as_label
from mmtrain.run.sweep.progress import Mode

Roots = tuple[Path, ...]


@dataclass(frozen=True)
class Paper:
    """Tables and figures, each with the directories of its runs.

    Attributes:
        title: Of the page.
        tables: By name.
        figures: By name.
    """

    title: str
    tables: Mapping[str, tuple[Roots, Question]] = field(default_factory=dict)
    figures: Mapping[str, tuple[Roots, FigureQuestion]] = field(default_factory=dict)


class _FormError(Exception):
    """A value is not of the form that its key asks for; the message says which is."""


def read_paper(path: Path, roots: Roots = ()) -> Paper:
    """Reads a file of tables and figures. Directories in it start from the working directory, as everywhere.

    Args:
        path: The file.
        roots: Directories of runs of the entries that name none; empty for those of the file's own ``runs``.

    Raises:
        ConfigError: The file is no YAML, or something in it is unknown, missing, or of another form.
    """
    content, lines = _load(path)
    read = _Reader(path, lines)
    top = read.mapping(content, "", _PAPER, required=())
    shared = tuple(map(Path, top.get("runs", ())))
    if not top.get("tables") and not top.get("figures"):
        raise ConfigError("there is neither a table nor a figure", where=str(path), mend="tables: {main: {rows: ...}}")
    tables, figures = {}, {}
    for name, node, key in read.entries(top.get("tables", {}), "tables"):
        values = read.mapping(node, key, _TABLE, required=("rows", "metric"))
        runs = read.roots(values, roots or shared, key)
        labels = top.get("labels", {}) | values.pop("labels", {})
        question = Question(metrics=values.pop("metric"), labels=labels, **values)
        for metric in question.percent:
            if metric not in question.metrics:
                where, mend = read.where(f"{key}.percent"), did_you_mean(metric, question.metrics)
                raise ConfigError(f"{metric!r} is no metric of the table", where=where, mend=mend)
        tables[name] = (runs, question)
    for name, node, key in read.entries(top.get("figures", {}), "figures"):
        values = read.mapping(node, key, _FIGURE, required=("lines", "metric"))
        runs = read.roots(values, roots or shared, key)
        labels = top.get("labels", {}) | values.pop("labels", {})
        figures[name] = (runs, FigureQuestion(labels=labels, **values))
    return Paper(top.get("title", path.stem), tables, figures)


def paper_of(roots: Roots, question: Question) -> Paper:
    """A table, and a figure of the training loss and of each of its metrics."""
    lines = (*question.rows, *([question.cols] if question.cols else []))
    base = FigureQuestion("train/loss", lines, question.over, question.where, labels=question.labels)
    metrics = dict.fromkeys((*question.metrics, "train/loss"))
    figures = {f"curve_{file_name(metric)}": (roots, replace(base, metric=metric)) for metric in metrics}
    return Paper(", ".join(map(str, roots)), {"table": (roots, question)}, figures)


def file_name(text: str) -> str:
    """A text as the name of a file."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", text)


class _Reader:
    """Checks the nodes of a file against what their keys ask for, and tells where a mistake stands."""

    def __init__(self, path: Path, lines: Mapping[str, int]) -> None:
        self.path = path
        self.lines = lines

    def mapping(
        self, node: Any, key: str, readers: Mapping[str, Callable[[Any], Any]], required: tuple[str, ...]
    ) -> dict[str, Any]:
        """The values of a node, each as its reader makes it."""
        if not isinstance(node, dict):
            raise ConfigError(f"{key or 'the file'} is no mapping", where=self.where(key), mend="write key: value")
        values = {}
        for name, value in node.items():
            place = f"{key}.{name}" if key else str(name)
            if name not in readers:
                raise ConfigError(
                    f"unknown key {name!r}", where=self.where(place), mend=did_you_mean(str(name), readers)
                )
            try:
                values[name] = readers[name](value)
            except _FormError as error:
                raise ConfigError(f"{place} is no {error}: {value!r}", where=self.where(place)) from None
        for name in required:
            if name not in values:
                raise ConfigError(f"{key} lacks {name!r}", where=self.where(key), mend=f"add {name}: ...")
        return values

    def entries(self, nodes: Mapping[str, Any], key: str) -> Iterator[tuple[str, Any, str]]:
        """The tables or figures, with their keys in the file."""
        for name, node in nodes.items():
            place = f"{key}.{name}"
            if file_name(str(name)) != str(name):
                raise ConfigError(
                    f"{name!r} is to be the name of a file", where=self.where(place), mend="use letters, digits, . _ -"
                )
            yield str(name), node, place

    def roots(self, values: dict[str, Any], default: Roots, key: str) -> Roots:
        """The directories of an entry's runs."""
        runs = tuple(map(Path, values.pop("runs", ()))) or default
        if not runs:
            mend = "runs: sweeps/NAME, for all or here, or name them on the command line"
            raise ConfigError(f"{key} names no runs", where=self.where(key), mend=mend)
        return runs

    def where(self, key: str) -> str:
        """The file and line of a key."""
        return f"{self.path}:{self.lines[key]}" if key in self.lines else str(self.path)


def _load(path: Path) -> tuple[Any, dict[str, int]]:
    try:
        text = path.read_text(encoding="utf-8")
        loader = get_yaml_loader()
        content, node = yaml.load(text, Loader=loader), yaml.compose(text, Loader=loader)
    except OSError as error:
        raise ConfigError(f"the file cannot be read: {error.strerror}", where=str(path), mend="--spec FILE") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"not valid YAML: {error}", where=str(path), mend="mend the YAML") from error
    return content, dict(_lines(node, ""))


def _lines(node: yaml.Node | None, prefix: str) -> Iterator[tuple[str, int]]:
    if isinstance(node, yaml.MappingNode):
        for name, child in node.value:
            key = f"{prefix}.{name.value}" if prefix else str(name.value)
            yield key, name.start_mark.line + 1
            yield from _lines(child, key)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _FormError("text")
    return value


def _label(value: Any) -> str:
    if isinstance(value, dict | list) or value is None:
        raise _FormError("single value")
    return as_label(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _FormError("true or false")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    listed = value if isinstance(value, list) else [value]
    if not listed or not all(isinstance(text, str) for text in listed):
        raise _FormError("name, or list of names")
    return tuple(listed)


def _labels(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise _FormError("mapping")
    return {as_label(key): _label(label) for key, label in value.items()}


def _nodes(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _FormError("mapping of names")
    return value


def _one_of(kind: Any) -> Callable[[Any], Any]:
    known = get_args(kind)

    def read(value: Any) -> Any:
        if value not in known:
            raise _FormError(f"one of {', '.join(known)}")
        return value

    return read


def _modes(value: Any) -> tuple[Any, ...]:
    read = _one_of(Mode)
    return tuple(map(read, value if isinstance(value, list) else [value]))


_PAPER: dict[str, Callable[[Any], Any]] = {
    "title": _text,
    "runs": _texts,
    "labels": _labels,
    "tables": _nodes,
    "figures": _nodes,
}
_TABLE: dict[str, Callable[[Any], Any]] = {
    "runs": _texts,
    "rows": _texts,
    "cols": _text,
    "metric": _texts,
    "mode": _modes,
    "baseline": _label,
    "test": _one_of(Test),
    "at": _one_of(At),
    "over": _texts,
    "where": _labels,
    "percent": _texts,
    "labels": _labels,
    "caption": _text,
}
_FIGURE: dict[str, Callable[[Any], Any]] = {
    "runs": _texts,
    "metric": _text,
    "lines": _texts,
    "over": _texts,
    "where": _labels,
    "x": _text,
    "log_y": _flag,
    "labels": _labels,
    "caption": _text,
}
