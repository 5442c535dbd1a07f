"""Checks a composed configuration against the signatures it will be passed to, before anything is built."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Set
from dataclasses import dataclass, is_dataclass
from difflib import get_close_matches
from typing import Any

from mmtrain.config.compose import Composed, mend_of_root_key
from mmtrain.config.instantiate import SPECIAL_KEYS, is_node, resolve_target
from mmtrain.config.provenance import Source, join
from mmtrain.config.schema import PROVIDED, Budget, Node, Nodes, Root
from mmtrain.config.signature import fits, item_annotation, misfit, signature_of, type_name
from mmtrain.errors import ConfigError, did_you_mean, nearest


@dataclass(frozen=True)
class Problem:
    """A mistake in a configuration: at which key, what, where it was set, and what to do."""

    key: str
    what: str
    where: Source | None
    mend: str | None


def validate(composed: Composed) -> None:
    """Checks names, types and targets of a whole configuration. Imports its targets, builds nothing.

    Raises:
        ConfigError: It lists every mistake found.
    """
    checker = _Checker(composed)
    checker.check_root()
    if checker.problems:
        raise _error(checker.problems)


class _Checker:
    def __init__(self, composed: Composed) -> None:
        self.composed = composed
        self.problems: list[Problem] = []

    def report(self, key: str, what: str, mend: str | None = None) -> None:
        self.problems.append(Problem(key, what, self.composed.source(key), mend))

    def check_root(self) -> None:
        config = self.composed.config
        signature = signature_of(Root)
        for name, value in config.items():
            if name not in signature.annotations:
                mend = mend_of_root_key(str(name), self.composed.source(str(name)), self.composed.choices)
                self.report(str(name), "unknown key", mend)
                continue
            annotation = signature.annotations[name]
            if annotation is Node:
                self.check_group_node(name, value, PROVIDED[name])
            elif annotation is Nodes:
                self.check_group_nodes(name, value, PROVIDED[name])
            elif is_dataclass(annotation) and isinstance(annotation, type):
                self.check_section(name, value, annotation)
            else:
                self.check_value(name, value, annotation)
        for name in sorted(signature.required - config.keys()):
            self.report(name, "missing", f"set it in conf/train.yaml or by {name}=...")
        self.check_budget(config.get("budget"))

    def check_section(self, key: str, value: Any, section: type) -> None:
        if isinstance(value, Mapping):
            self.check_arguments(key, value, section, f"section {key}", frozenset())
        else:
            self.report(key, f"{value!r} is no mapping", f"its keys are {', '.join(signature_of(section).annotations)}")

    def check_budget(self, budget: Any) -> None:
        if not isinstance(budget, Mapping):
            return
        kinds = signature_of(Budget).annotations.keys()
        chosen = [name for name in kinds if budget.get(name) is not None]
        if not chosen:
            self.report("budget", f"none of {', '.join(kinds)} is set", "set one, for example budget.epochs=1")
        elif len(chosen) > 1:
            places = ", ".join(f"{name} ({self.composed.source(f'budget.{name}')})" for name in chosen)
            self.report("budget", f"more than one is set: {places}", f"set one, for example budget.{chosen[0]}=null")

    def check_group_nodes(self, key: str, value: Any, provided: Set[str]) -> None:
        if not isinstance(value, Mapping) or is_node(value):
            self.report(key, "must be a mapping of names to nodes", f"write {key}: {{some_name: {{_target_: ...}}}}")
            return
        for name, node in value.items():
            if node is not None:
                self.check_group_node(join(key, str(name)), node, provided)

    def check_group_node(self, key: str, value: Any, provided: Set[str]) -> None:
        if is_node(value):
            self.check_node(key, value, Any, provided)
        elif isinstance(value, Mapping):
            misspelt = get_close_matches("_target_", map(str, value), n=1)
            self.report(key, "has no _target_", f"write _target_ for {misspelt[0]}" if misspelt else None)
        else:
            self.report(key, f"{value!r} is no node with a _target_")

    def check_node(self, key: str, node: Mapping[str, Any], expected: Any, provided: Set[str] = frozenset()) -> None:
        try:
            target = resolve_target(node["_target_"])
        except ConfigError as error:
            self.report(f"{key}._target_", error.message, error.mend)
            return
        partial = node.get("_partial_", False)
        if not isinstance(partial, bool):
            self.report(f"{key}._partial_", f"{partial!r} is neither true nor false")
        produced = functools.partial if partial else signature_of(target).returns
        if not fits(expected, produced):
            name = "a _partial_" if partial else type_name(produced)
            self.report(f"{key}._target_", f"gives {name}, but {type_name(expected)} is expected")
        arguments = {name: value for name, value in node.items() if name not in SPECIAL_KEYS}
        self.check_arguments(key, arguments, target, node["_target_"], provided, partial=bool(partial))

    def check_arguments(
        self,
        key: str,
        arguments: Mapping[str, Any],
        target: Callable[..., Any],
        title: str,
        provided: Set[str],
        partial: bool = False,
    ) -> None:
        signature = signature_of(target)
        accepted = signature.annotations.keys()
        for name, value in arguments.items():
            child = join(key, str(name))
            if name in provided:
                self.report(child, "is set by the program", "remove it")
            elif name in accepted or signature.is_open:
                self.check_value(child, value, signature.annotations.get(name, Any))
            else:
                what = f"unknown key: {title} does not take it"
                self.report(child, what, self.mend_of_key(child, accepted - provided))
        missing = set() if partial else signature.required - arguments.keys() - provided
        for name in sorted(missing):
            self.report(_target_key(key, self.composed), f"{title} needs {name!r}", f"set {join(key, name)}")
        if refused := sorted(set() if signature.is_open else provided - accepted):
            what = f"{title} does not take {', '.join(refused)}, which the program passes"
            self.report(_target_key(key, self.composed), what)

    def check_value(self, key: str, value: Any, annotation: Any) -> None:
        if is_node(value):
            self.check_node(key, value, annotation)
        elif _holds_node(value):
            items = value.items() if isinstance(value, Mapping) else enumerate(value)
            for index, item in items:
                self.check_value(join(key, str(index)), item, item_annotation(annotation, index))
        elif reason := misfit(annotation, value):
            self.report(key, f"{value!r} ({type(value).__name__}): {reason}", _mend_of_value(value, annotation))
        elif isinstance(value, Mapping):
            self._check_special_keys(key, value)

    def mend_of_key(self, key: str, accepted: Collection[str]) -> str:
        """What to do about a key that its target does not take: the nearest that it takes, or else one elsewhere."""
        name = key.rpartition(".")[2]
        mend = did_you_mean(name, accepted)
        if nearest(name, accepted) is not None:
            return mend
        # Right name, wrong place: model.lr for optim.lr. Of several keys of one name the one nearest to the root.
        others = sorted(self.composed.provenance.keys() - {key}, key=lambda other: (-other.count("."), other))
        places = {other.rpartition(".")[2]: other for other in others}
        near = nearest(name, places)
        return f"did you mean {places[near]!r}? {mend}" if near is not None else mend

    def _check_special_keys(self, key: str, value: Mapping[str, Any]) -> None:
        for name in value:
            if isinstance(name, str) and name.startswith("_") and name.endswith("_"):
                self.report(join(key, name), "unknown special key", did_you_mean(name, SPECIAL_KEYS))


def _holds_node(value: Any) -> bool:
    children = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return any(is_node(child) or _holds_node(child) for child in children)


def _target_key(key: str, composed: Composed) -> str:
    target = f"{key}._target_"
    return target if target in composed.provenance else key


def _mend_of_value(value: Any, annotation: Any) -> str | None:
    if isinstance(value, float) and value.is_integer() and misfit(annotation, int(value)) is None:
        return f"write {int(value)}"
    if isinstance(value, str) and (number := _number(value)) is not None and misfit(annotation, number) is None:
        return f"write {number}, without quotes"
    return None


def _number(text: str) -> float | int | None:
    try:
        return int(text) if text.lstrip("-").isdigit() else float(text)
    except ValueError:
        return None


def _error(problems: list[Problem]) -> ConfigError:
    if len(problems) == 1:
        (problem,) = problems
        where = str(problem.where) if problem.where else None
        return ConfigError(f"{problem.key}: {problem.what}", where=where, mend=problem.mend)
    lines = [f"{len(problems)} mistakes in the configuration"]
    for problem in problems:
        lines.append(f"- {problem.key}: {problem.what}")
        if problem.where:
            lines.append(f"    where: {problem.where}")
        if problem.mend:
            lines.append(f"    mend:  {problem.mend}")
    return ConfigError("\n".join(lines))
