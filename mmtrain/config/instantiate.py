"""From a node to the object it describes, by targets that are allowed."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

from mmtrain.errors import ConfigError, did_you_mean

ENTRY_POINT_GROUP = "mmtrain.targets"
SPECIAL_KEYS = frozenset({"_target_", "_partial_"})

_prefixes = {"mmtrain.", "torch.optim.", "lightning."}


def allow_targets(prefix: str) -> None:
    """Allows ``_target_``s below a package, for this process: ``allow_targets("mypkg.")``.

    An installed package does the same by an entry point in the group ``mmtrain.targets`` whose name is the prefix.
    A configuration cannot: a run is only ever made of code that somebody chose to install.

    Raises:
        ConfigError: The prefix is not a dotted name that ends in a dot.
    """
    if not prefix.endswith(".") or not all(part.isidentifier() for part in prefix[:-1].split(".")):
        raise ConfigError(f"{prefix!r} is no prefix of targets", mend="name a package and end in a dot: 'mypkg.'")
    _prefixes.add(prefix)


def allowed_prefixes() -> tuple[str, ...]:
    """Returns the prefixes that a ``_target_`` may have."""
    return (*sorted(_prefixes), *_installed_prefixes())


def is_node(value: object) -> bool:
    """Tells whether a value of a configuration describes an object."""
    return isinstance(value, Mapping) and "_target_" in value


def resolve_target(name: object) -> Callable[..., Any]:
    """Imports a target.

    Raises:
        ConfigError: It is not allowed, cannot be imported, or cannot be called.
    """
    if not isinstance(name, str):
        raise ConfigError(f"_target_ is {name!r}, not a dotted name")
    if not name.startswith(allowed_prefixes()):
        raise ConfigError(f"_target_ {name!r} is not allowed", mend=_allowed())
    target: Callable[..., Any] = _locate(name)
    if not callable(target):
        raise ConfigError(f"_target_ {name!r} is a {type(target).__name__}, which cannot be called")
    # A module of an allowed package also holds what it imported: "mmtrain.data.index.os.system" is os.system.
    if not f"{target.__module__}.".startswith(allowed_prefixes()):
        raise ConfigError(f"_target_ {name!r} is not allowed: it is a name of {target.__module__}", mend=_allowed())
    return target


def instantiate(node: Mapping[str, Any], key: str = "", /, **provided: Any) -> Any:
    """Builds what a node describes: ``_target_`` called with the other keys, nested nodes first.

    This is `hydra.utils.instantiate` without its detour through OmegaConf, which copies containers and turns a
    dataclass among the provided arguments into a dict. Of its special keys only ``_partial_`` exists.

    Args:
        node: A mapping with a ``_target_``, validated.
        key: Dotted key of the node, for error messages.
        provided: Further arguments of the outermost target; they are passed as they are.

    Raises:
        ConfigError: The target is not allowed, or refuses its arguments with a TypeError or ValueError.
        UserError: Whatever the target raises itself.
    """
    where = key or None
    if not is_node(node):
        raise ConfigError("a node without _target_ cannot be built", where=where)
    target = resolve_target(node["_target_"])
    settings = {name: _build(value, f"{key}.{name}" if key else name) for name, value in node.items()}
    partial = settings.pop("_partial_", False)
    del settings["_target_"]
    if taken := sorted(settings.keys() & provided.keys()):
        raise ConfigError(f"{', '.join(taken)} cannot be set: the program passes it", where=where)
    if partial:
        return functools.partial(target, **settings, **provided)
    try:
        return target(**settings, **provided)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{node['_target_']} cannot be built: {error}", where=where) from error


def _build(value: Any, key: str) -> Any:
    if is_node(value):
        return instantiate(value, key)
    if isinstance(value, Mapping):
        return {name: _build(child, f"{key}.{name}") for name, child in value.items()}
    if isinstance(value, list):
        return [_build(child, f"{key}.{index}") for index, child in enumerate(value)]
    return value


def _locate(name: str) -> Any:
    parts = name.split(".")
    found: Any = None
    # The longest module first: a package may export a function under the name of one of its modules.
    for depth in range(len(parts) - 1, 0, -1):
        found = _import(".".join(parts[:depth]), name)
        if found is not None:
            break
    if found is None:
        raise ConfigError(f"_target_ {name!r} does not exist: no package {parts[0]!r} is installed")
    for part in parts[depth:]:
        if not hasattr(found, part):
            members = [member for member in dir(found) if not member.startswith("_")]
            submodules = [module.name for module in pkgutil.iter_modules(getattr(found, "__path__", []))]
            raise _missing(name, part, found.__name__, members + submodules)
        found = getattr(found, part)
    return found


def _import(module: str, target: str) -> ModuleType | None:
    """Imports a module; None where there is none of that name."""
    try:
        return importlib.import_module(module)
    except Exception as error:  # importing runs whatever code a module holds
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
            return None
        reason = f"{module} raises {type(error).__name__}: {error}"
        raise ConfigError(f"_target_ {target!r} cannot be imported: {reason}") from error


def _missing(name: str, part: str, parent: str, candidates: list[str]) -> ConfigError:
    return ConfigError(
        f"_target_ {name!r} does not exist: {parent} has no {part!r}", mend=did_you_mean(part, candidates)
    )


def _allowed() -> str:
    return (
        f"allowed are {', '.join(allowed_prefixes())} and the packages that declare an entry point in"
        f" {ENTRY_POINT_GROUP!r} or call allow_targets()"
    )


@functools.cache
def _installed_prefixes() -> tuple[str, ...]:
    return tuple(sorted(f"{point.name.rstrip('.')}." for point in entry_points(group=ENTRY_POINT_GROUP)))
