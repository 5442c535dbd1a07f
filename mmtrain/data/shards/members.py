"""Which members of an archive make a sample: webdataset's rules, so that both see the same keys and extensions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from mmtrain.data.shards.tar import Member
from mmtrain.errors import DataError

_META = re.compile(r"__[^/]*__($|/)")


class Group(NamedTuple):
    """The members of one sample, each with its extension, in the order of the archive."""

    key: str
    members: list[tuple[str, Member]]


def group(members: Iterable[Member], shard: Path) -> Iterator[Group]:
    """Yields the samples: neighbouring members whose names are the same up to their extension.

    Raises:
        DataError: A sample holds two members of one extension, or one that webdataset keeps for itself.
    """
    current = Group("", [])
    for member in members:
        split = key_and_extension(member.name)
        if split is None:
            continue
        key, extension = split[0], split[1].lower()
        if key != current.key:
            if current.members:
                yield current
            current = Group(key, [])
        _check(current, extension, f"{shard}, key {key}, byte {member.offset}")
        current.members.append((extension, member))
    if current.members:
        yield current


def key_and_extension(name: str) -> tuple[str, str] | None:
    """Cuts ``a/b.v1/c.seg.png`` into ``a/b.v1/c`` and ``seg.png``; None for what belongs to no sample.

    Does what webdataset's ``^((?:.*/|)[^.]+)[.]([^/]*)$`` does, newlines included, in a time linear in the name's
    length: names are made by strangers.
    """
    slash = name.rfind("/")
    dot = name.find(".", slash + 1)
    if dot < 1 or (name.startswith("__") and _META.match(name)):
        return None
    if dot == slash + 1 or "\n" in name:  # the part before the dot begins before the last slash
        newline = name.find("\n")
        start = name.rfind("/", 0, min(dot - 1, newline) if newline >= 0 else dot - 1) + 1
        if "." in name[start:dot]:
            return None
    return name[:dot], name[dot + 1 :]


def _check(group: Group, extension: str, where: str) -> None:
    if extension.startswith("__") and extension.endswith("__"):
        raise DataError(f"a member's extension is {extension}, a reserved name", where=where, mend="rename the member")
    if any(extension == other for other, _ in group.members):
        mend = "write each member of a sample once, and give neighbouring samples different keys"
        raise DataError(f"a sample holds two members .{extension}", where=where, mend=mend)
