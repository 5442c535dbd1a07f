"""Labelled texts: what their sources have in common, and how a split becomes shards.

A sample is one member ``KEY.json``: ``{"text": ..., "label": ...}``, and ``text_b`` where texts come in pairs. A label
is the name of a class, or a number to be predicted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mmtrain.data.prepare import MARKER, prepare_once
from mmtrain.data.shards.build import build_manifest
from mmtrain.data.shards.write import write_shards
from mmtrain.errors import DataError

SAMPLES_PER_SHARD = 4096


class LabelledTextSource(Protocol):
    """Where labelled texts come from.

    Attributes:
        name: Short name, for messages.
        classes: Names of the classes, in the order of their numbers; None where labels are numbers.
        eval_sets: Folders to evaluate on.
    """

    @property
    def name(self) -> str: ...

    @property
    def classes(self) -> tuple[str, ...] | None: ...

    @property
    def eval_sets(self) -> tuple[str, ...]: ...

    def prepare(self, root: Path) -> None:
        """Writes ``root/train`` and ``root/<evaluation set>``, each with shards and a ``manifest.json``.

        Does nothing where they stand. Safe to call from many processes at once, and to interrupt.

        Raises:
            DataError: Something cannot be had or read, or ``root`` holds something else.
        """


@dataclass(frozen=True, slots=True)
class LabelledSample:
    """A text, or a pair of them; the name of its class, or its number; and what else is worth keeping."""

    text: str
    label: str | float
    text_b: str | None = None
    more: Mapping[str, Any] | None = None

    def member(self) -> bytes:
        """The sample's JSON."""
        pair = {} if self.text_b is None else {"text_b": self.text_b}
        return json.dumps({"text": self.text, **pair, "label": self.label, **(self.more or {})}).encode()


def write_split(samples: Iterable[LabelledSample], folder: Path) -> dict[str, Any]:
    """Writes a split's shards, in a random order that its texts alone decide, and counts what it holds.

    Shuffled, a shard holds a bit of everything, and a shuffle within a window is a real one.
    """
    members = sorted((sample.member() for sample in samples), key=lambda member: hashlib.sha256(member).digest())
    keyed = [(f"{number:07d}", {"json": member}) for number, member in enumerate(members)]
    paths = write_shards(keyed, folder, folder.name, SAMPLES_PER_SHARD)
    build_manifest(paths, folder / "manifest.json")
    return {"samples": len(keyed), "shards": len(paths)}


def prepare_from(root: Path, made_from: Mapping[str, Any], make: Callable[[Path], None]) -> None:
    """Fills ``root`` once, see `prepare_once`, and refuses one that was made from something else.

    Raises:
        DataError: ``root`` holds something else.
    """
    prepare_once(root, make)
    found = json.loads((root / MARKER).read_text(encoding="utf-8")).get("made_from", {})
    wanted = json.loads(json.dumps(made_from))  # as it is read back
    names = [name for name in {**wanted, **found} if found.get(name) != wanted.get(name)]
    if names:
        differing = (f"{name} {found.get(name)!r}, not {wanted.get(name)!r}" for name in names)
        mend = "name another folder, or move this one away and prepare it again"
        raise DataError(f"this folder was made with {'; '.join(differing)}", where=str(root / MARKER), mend=mend)
