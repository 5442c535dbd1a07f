"""The manifest as a file: whole, versioned, readable in part, and damaged."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from recorded_runs import CONFIG, MANIFEST, SEGMENT, write_recorded

from mmtrain.errors import RunError
from mmtrain.run import manifest_file
from mmtrain.run.energy import Energy
from mmtrain.run.manifest import read_manifest, write_manifest
from mmtrain.run.manifest_file import NAME, read_head
from mmtrain.run.source_tree import json_sha256


def test_what_is_written_is_read(tmp_path: Path) -> None:
    segments = [replace(SEGMENT, reason="killed", energy=Energy(cpu_joules=1.5)), replace(SEGMENT, reason=None)]
    manifest = replace(MANIFEST, segments=segments)
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_numbers_that_json_does_not_know_come_back(tmp_path: Path) -> None:
    final = {"train/loss": math.nan, "a": math.inf, "b": -math.inf}
    write_manifest(tmp_path, replace(MANIFEST, final=final))
    json.loads((tmp_path / NAME).read_text(), parse_constant=pytest.fail)
    read = read_manifest(tmp_path)
    assert read is not None
    assert math.isnan(read.final.pop("train/loss"))
    assert read.final == {"a": math.inf, "b": -math.inf}


def test_a_run_without_a_manifest_has_none(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None


def test_another_schema_is_told_with_the_version_that_wrote_it_and_what_can_still_be_read(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text(json.dumps({"schema": 2, "mmtrain": "9.1", "new": True}))
    with pytest.raises(RunError) as caught:
        read_manifest(tmp_path)
    assert "has schema 2, and this version of mmtrain reads 1" in caught.value.message
    assert "metrics.jsonl and checkpoints can still be read" in caught.value.message
    assert "use the version of mmtrain that wrote it 9.1" in str(caught.value.mend)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "Expecting property name"),
        ("[]", "it has no schema"),
        ("\xff", "codec can't decode|Expecting value"),
        ('{"schema": 1}', "mmtrain: Field required|mmtrain: Missing"),
    ],
)
def test_a_damaged_manifest_is_told_with_its_place(tmp_path: Path, content: str, reason: str) -> None:
    (tmp_path / NAME).write_bytes(content.encode("latin-1"))
    with pytest.raises(RunError, match=f"the manifest is damaged: .*({reason})") as caught:
        read_manifest(tmp_path)
    assert caught.value.where == str(tmp_path / NAME)


def test_a_value_of_a_wrong_type_is_named(tmp_path: Path) -> None:
    write_recorded(tmp_path / "run")
    path = tmp_path / "run" / NAME
    content = json.loads(path.read_text())
    content["segments"][0]["world_size"] = "many"
    path.write_text(json.dumps(content))
    with pytest.raises(RunError, match="segments.0.world_size"):
        read_manifest(tmp_path / "run")


def test_a_manifest_of_an_earlier_segment_has_its_config_and_history() -> None:
    earlier = CONFIG | {"seed": 7}
    sha256 = json_sha256(earlier)
    first = replace(SEGMENT, config_sha256=sha256)
    manifest = replace(MANIFEST, segments=[first, SEGMENT, SEGMENT], earlier_configs={sha256: earlier})
    assert (manifest.as_of(0).segments, manifest.as_of(0).config["seed"]) == ([first], 7)
    assert (manifest.as_of(1).newest, manifest.as_of(1).config["seed"]) == (SEGMENT, 0)


def test_the_head_is_read_without_what_follows(tmp_path: Path) -> None:
    write_manifest(tmp_path, MANIFEST)
    whole = (tmp_path / NAME).read_text()
    (tmp_path / NAME).write_text(whole[: whole.index('"weights_sha256"')] + '"cut off')
    head = read_head(tmp_path / NAME, {"schema", "final", "total_steps"})
    assert head == {"schema": 1, "total_steps": 4, "final": MANIFEST.final}


@pytest.mark.parametrize("size", range(1, 400, 7))
def test_a_head_is_the_same_wherever_its_first_part_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    content = {"schema": 12345, "text": 'a "quoted" }', "list": [1, {"a": None}], "last": 1234.5678}
    (tmp_path / NAME).write_text(json.dumps(content, indent=1))
    monkeypatch.setattr(manifest_file, "_HEAD_CHARACTERS", size)
    assert read_head(tmp_path / NAME, set(content)) == content
    assert read_head(tmp_path / NAME, {"schema", "absent"}) == {"schema": 12345}


@pytest.mark.parametrize("content", ["", "[1]", '{"schema": 1', '{"schema": }'])
def test_a_head_of_no_json_is_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / NAME).write_text(content)
    with pytest.raises(ValueError, match="end is missing|Expecting value"):
        read_head(tmp_path / NAME, {"schema", "final"})
