"""What a callable accepts, and whether a value of a configuration fits an annotation."""

from __future__ import annotations

import inspect
import json
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, is_dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError
from pydantic_core import SchemaError


@dataclass(frozen=True)
class Signature:
    """The keywords of a callable.

    Attributes:
        annotations: Each accepted keyword and its type; ``Any`` where it has none or it cannot be resolved.
        required: Keywords without a default.
        is_open: Any other keyword is accepted, too (``**kwargs``).
        returns: The type of the result; ``Any`` where unknown.
    """

    annotations: dict[str, Any]
    required: frozenset[str]
    is_open: bool
    returns: Any


def signature_of(target: Callable[..., Any]) -> Signature:
    """Returns the signature of a class (of its constructor, inherited or generated) or of a function."""
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):  # some callables written in C tell nothing of themselves
        return Signature({}, frozenset(), is_open=True, returns=Any)
    hints = _hints(target)
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return Signature(
        annotations={p.name: _annotation(p, hints) for p in named},
        required=frozenset(p.name for p in named if p.default is p.empty),
        is_open=any(p.kind is p.VAR_KEYWORD for p in parameters),
        returns=target if isinstance(target, type) else hints.get("return", Any),
    )


def misfit(annotation: Any, value: Any) -> str | None:
    """Returns what is wrong with a plain value (JSON's types) for an annotation; None where nothing is.

    Strict, as JSON is read: 1 is a float, a list is a tuple, but "1" and True are no ints. An annotation that pydantic
    cannot read fits everything.
    """
    built = f"expected {type_name(annotation)}, built by a node with _target_"
    # No plain value is an object of a protocol, and pydantic cannot ask it of one that is not checked at run time. It
    # would also read a mapping as a dataclass, where a constructor would be handed the mapping.
    members = tuple(
        member
        for member in union_members(annotation)
        if not (_is_static_protocol(member) or (isinstance(value, dict) and _is_model(member)))
    )
    if not members:
        return built
    if len(members) < len(union_members(annotation)):
        annotation = typing.Union[members]  # noqa: UP007
    try:
        adapter = TypeAdapter(annotation, config=_adapter_config(annotation))
        adapter.validate_json(json.dumps(value, default=str), strict=True)
    except ValidationError as error:
        reasons = {_reason(detail) for detail in error.errors()} - {""}
        return " or ".join(sorted(reasons)) or built
    except (PydanticUserError, PydanticUndefinedAnnotation, SchemaError, TypeError, NameError, AttributeError):
        return None
    return None


def fits(annotation: Any, produced: Any) -> bool:
    """Tells whether an object of the type ``produced`` may be passed for an annotation; True where that is unknown."""
    for member in union_members(annotation):
        if member is Any or produced is Any:
            return True
        expected = typing.get_origin(member) or member
        actual = typing.get_origin(produced) or produced
        if not isinstance(expected, type) or not isinstance(actual, type):
            # Literal and None take no object; of TypeVars and the like nothing is known.
            if member is not None and expected is not typing.Literal:
                return True
            continue
        try:
            if issubclass(actual, expected):
                return True
        except TypeError:  # a protocol that is not checked at run time
            return True
    return False


def item_annotation(annotation: Any, index: int | str) -> Any:
    """Returns the annotation of an item of a list, tuple or mapping; ``Any`` where unknown."""
    for member in union_members(annotation):
        arguments = typing.get_args(member)
        origin = typing.get_origin(member)
        if not isinstance(origin, type) or not arguments:
            continue
        if isinstance(index, str) and issubclass(origin, typing.Mapping) and len(arguments) == 2:
            return arguments[1]
        if isinstance(index, int) and issubclass(origin, tuple) and arguments[-1] is not Ellipsis:
            return arguments[index] if index < len(arguments) else Any
        if isinstance(index, int) and not issubclass(origin, typing.Mapping):
            return arguments[0]
    return Any


def union_members(annotation: Any) -> tuple[Any, ...]:
    """Returns the members of a union, and another annotation as the only one."""
    if typing.get_origin(annotation) is typing.Annotated and is_union(typing.get_args(annotation)[0]):
        annotation = typing.get_args(annotation)[0]
    return typing.get_args(annotation) if is_union(annotation) else (annotation,)


def is_union(annotation: Any) -> bool:
    """Tells whether an annotation is a union, in either notation."""
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


def type_name(annotation: Any) -> str:
    """Returns an annotation as one would write it, without modules."""

    def name(member: Any) -> str:
        if member is types.NoneType:
            return "None"
        plain = isinstance(member, type) and not typing.get_args(member)
        return member.__name__ if plain else inspect.formatannotation(member)

    return " | ".join(name(member) for member in union_members(annotation))


def _annotation(parameter: inspect.Parameter, hints: dict[str, Any]) -> Any:
    annotation = hints.get(parameter.name, Any)
    # "width: int = None" is a common way to write that None is accepted.
    return typing.Optional[annotation] if parameter.default is None else annotation  # noqa: UP045


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    function: Any = target
    if isinstance(target, type):
        function = target.__init__ if target.__init__ is not object.__init__ else target.__new__  # type: ignore[misc]
    function = inspect.unwrap(function)
    names = getattr(function, "__globals__", {})
    hints: dict[str, Any] = {}
    # One at a time: a name imported for type checking only spoils its own parameter, not all.
    for name, annotation in getattr(function, "__annotations__", {}).items():
        holder = types.SimpleNamespace(__annotations__={name: annotation})
        try:
            hints[name] = typing.get_type_hints(holder, globalns=names, include_extras=True)[name]
        except (NameError, TypeError, AttributeError, SyntaxError):
            continue
    return hints


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and (is_dataclass(annotation) or issubclass(annotation, BaseModel))


def _is_static_protocol(annotation: Any) -> bool:
    return getattr(annotation, "_is_protocol", False) and not getattr(annotation, "_is_runtime_protocol", False)


def _adapter_config(annotation: Any) -> ConfigDict | None:
    # These bring a configuration of their own, and pydantic refuses a second.
    return (
        None if _is_model(annotation) or typing.is_typeddict(annotation) else ConfigDict(arbitrary_types_allowed=True)
    )


def _reason(detail: Any) -> str:
    if detail["type"] in ("is_instance_of", "needs_python_object", "dataclass_type", "model_type", "callable_type"):
        return ""
    message = str(detail["msg"])
    where = ".".join(str(part) for part in detail["loc"] if isinstance(part, int))
    return f"item {where}: {message[0].lower()}{message[1:]}" if where else f"{message[0].lower()}{message[1:]}"
