"""What stays of the data in a run's directory: its tokenizer, its classes, its fingerprints and its licences."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from mmtrain.data.decode.text_tokenizer import TextTokenizer
from mmtrain.data.decode.tokenizer import ClipTokenizer
from mmtrain.errors import RunError
from mmtrain.run.manifest_file import read_manifest_json

TOKENIZER = "tokenizer"
"""The tokenizer's folder in the run directory."""

_FILE_OF_BEFORE = "data.json"
"""Where runs of before there were manifests keep their record."""
_CARD = "README.md"


@dataclass(frozen=True)
class DataRecord:
    """What a run knows of its data without the data.

    Attributes:
        fingerprints: sha256 of everything that was read, by name.
        classes: Names of the classes; empty where there are none.
        licence: The part of the data's card that names sources and licences; empty where there is no card.
    """

    fingerprints: dict[str, str] = field(default_factory=dict)
    classes: list[str] = field(default_factory=list)
    licence: str = ""


class _Fingerprinted(Protocol):
    @property
    def fingerprints(self) -> Mapping[str, str]: ...


@runtime_checkable
class _Tokenized(Protocol):
    tokenizer: object


@runtime_checkable
class _Classified(Protocol):
    @property
    def classes(self) -> Sequence[str] | None: ...


@runtime_checkable
class _Rooted(Protocol):
    root: Path


def record_data(data: _Fingerprinted, run: Path) -> DataRecord:
    """Writes ``tokenizer/`` into a run's directory, and returns what its manifest is to hold of the data.

    Args:
        data: A data node, prepared.
        run: The directory.
    """
    if isinstance(data, _Tokenized) and (tokenizer := _as_files(data.tokenizer)) is not None:
        tokenizer.save(run / TOKENIZER)
    classes = list(data.classes or ()) if isinstance(data, _Classified) else []
    licence = _licence(data.root / _CARD) if isinstance(data, _Rooted) else ""
    return DataRecord(dict(data.fingerprints), classes, licence)


def read_data_record(run: Path) -> DataRecord:
    """The record in a run's manifest; empty for a run of before there were records.

    Raises:
        RunError: The manifest is damaged, or of another schema.
    """
    manifest = read_manifest_json(run)
    if manifest is not None:
        return DataRecord(**manifest.get("data", {}))
    try:
        return DataRecord(**json.loads((run / _FILE_OF_BEFORE).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return DataRecord()


def require_recorded_tokenizer(data: _Fingerprinted, run: Path) -> None:
    """Refuses to go on with a run by another tokenizer than it was begun with.

    Raises:
        RunError: The tokenizer of ``data`` has another fingerprint than the recorded one.
    """
    before, now = (each.get("tokenizer") for each in (read_data_record(run).fingerprints, data.fingerprints))
    if before is not None and now != before:
        raise RunError(
            f"the run was begun with another tokenizer: sha256 {before}, and now {now}",
            where=str(run),
            mend=f"set the tokenizer of data to {run / TOKENIZER}, or begin anew with run.fresh=true",
        )


def _as_files(tokenizer: object) -> TextTokenizer | None:
    if isinstance(tokenizer, ClipTokenizer):
        return TextTokenizer("clip", cache_dir=tokenizer.cache_dir)
    return tokenizer if isinstance(tokenizer, TextTokenizer) else None


def _licence(card: Path) -> str:
    """The section of a Markdown file whose heading speaks of licences."""
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    found = re.search(r"^## [^\n]*licen[cs]e[^\n]*\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL | re.IGNORECASE)
    return found[1].strip() if found else ""
