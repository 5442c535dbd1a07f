"""What a run keeps of its data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from recorded_runs import MANIFEST

from mmtrain.data.decode.text_tokenizer import TextTokenizer
from mmtrain.errors import RunError
from mmtrain.run.data_record import (
    TOKENIZER,
    DataRecord,
    read_data_record,
    record_data,
    require_recorded_tokenizer,
)
from mmtrain.run.manifest import write_manifest

CARD = """# Set

## Splits

some

## Sources and licences

**CC BY 4.0**, by someone.

## Beware

of the dog
"""


class Node:
    """A data node of labelled texts."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tokenizer = TextTokenizer("bytes")
        self.classes = ("bad", "good")
        self.fingerprints = {"train": "f" * 64}


class Bare:
    """A data node of numbers."""

    fingerprints = {"train": "0" * 64}  # noqa: RUF012


def test_tokenizer_classes_fingerprints_and_licence_stay(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(CARD)
    node = Node(tmp_path)
    expected = DataRecord({"train": "f" * 64}, ["bad", "good"], "**CC BY 4.0**, by someone.")
    assert record_data(node, tmp_path / "run") == expected
    write_manifest(tmp_path / "run", replace(MANIFEST, data=expected))
    assert read_data_record(tmp_path / "run") == expected
    assert TextTokenizer(tmp_path / "run" / TOKENIZER).fingerprint == node.tokenizer.fingerprint


def test_data_without_texts_or_card_leave_their_fingerprints(tmp_path: Path) -> None:
    assert record_data(Bare(), tmp_path) == DataRecord({"train": "0" * 64})
    assert not (tmp_path / TOKENIZER).exists()


def test_a_run_of_before_has_its_record_in_a_file_of_its_own_or_an_empty_one(tmp_path: Path) -> None:
    assert read_data_record(tmp_path) == DataRecord()
    (tmp_path / "data.json").write_text('{"fingerprints": {"train": "x"}, "classes": ["a"], "licence": "MIT"}')
    assert read_data_record(tmp_path) == DataRecord({"train": "x"}, ["a"], "MIT")


def test_a_run_goes_on_with_its_own_tokenizer_only(tmp_path: Path) -> None:
    node = Node(tmp_path)
    require_recorded_tokenizer(node, tmp_path / "run")
    node.fingerprints["tokenizer"] = "a" * 64
    write_manifest(tmp_path / "run", replace(MANIFEST, data=record_data(node, tmp_path / "run")))
    require_recorded_tokenizer(node, tmp_path / "run")
    node.fingerprints["tokenizer"] = "b" * 64
    with pytest.raises(RunError, match=f"another tokenizer: sha256 {'a' * 64}, and now {'b' * 64}"):
        require_recorded_tokenizer(node, tmp_path / "run")
