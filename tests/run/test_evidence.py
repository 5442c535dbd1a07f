"""What is known of a run, and what is told of what is not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from recorded_runs import CODE, CONFIG, GIT, MANIFEST, SEGMENT, write_recorded

from mmtrain.errors import RunError
from mmtrain.run.code_state import Repository
from mmtrain.run.evidence import gather


def test_a_whole_run_has_no_problems(tmp_path: Path) -> None:
    run = gather(write_recorded(tmp_path / "run"))
    assert run.problems == []
    assert (run.config, run.code, run.packages) == (CONFIG, CODE, {"torch": "2.13.0", "numpy": "2.1"})
    assert run.environment is not None and run.environment.cpu == "EPYC"
    assert [row["step"] for row in run.rows] == [1, 2, 3, 4]
    assert run.data.fingerprints["train"] == "f" * 64
    assert run.patch("mmtrain") == "" and run.patch("other") is None


def test_what_is_no_run_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(RunError, match="this is not the directory of a run"):
            gather(path)


def test_a_run_of_before_there_were_manifests_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = write_recorded(tmp_path / "run", None)
    (path / "data.json").write_text(json.dumps({"fingerprints": {"train": "x"}, "classes": [], "licence": ""}))
    run = gather(path)
    assert run.problems == ["it has no manifest.json: of code, packages and machine nothing is known"]
    assert (run.config, run.data.fingerprints, len(run.rows)) == (CONFIG, {"train": "x"}, 4)
    assert run.code is None and run.packages is None and run.environment is None


def test_a_manifest_of_another_schema_and_damaged_metrics_are_told_and_the_rest_is_read(tmp_path: Path) -> None:
    path = write_recorded(tmp_path / "run")
    (path / "manifest.json").write_text(json.dumps({"schema": 2}))
    (path / "metrics.jsonl").write_text('{"step": 1}\nbroken\n{"step": 2}\n')
    run = gather(path)
    first, second, third = run.problems
    assert "the manifest has schema 2" in first
    assert "a row of the metrics is damaged" in second and "metrics.jsonl:2" in second
    assert third == "it has no metrics yet"
    assert run.config == CONFIG


def test_the_secrets_of_a_config_are_not_shown(tmp_path: Path) -> None:
    path = write_recorded(tmp_path / "run", None)
    (path / "config.yaml").write_text("logger: {api_key: abc}\n")
    assert gather(path).config == {"logger": {"api_key": "***"}}
    (path / "config.yaml").write_text("a: [\n")
    assert any("config.yaml cannot be read" in problem for problem in gather(path).problems)


def test_what_changed_on_the_way_is_told(tmp_path: Path) -> None:
    later = replace(SEGMENT, from_step=2, code="code1", packages="packages1", world_size=2, strategy="DDPStrategy")
    again = replace(later, from_step=3)
    packages = {"packages1": {"torch": "2.14"}} | MANIFEST.packages
    manifest = replace(
        MANIFEST, segments=[SEGMENT, later, again], code={"code0": CODE, "code1": CODE}, packages=packages
    )
    run = gather(write_recorded(tmp_path / "run", manifest))
    assert run.problems == [
        "it went on at step 2 with other code: code0 -> code1",
        "it went on at step 2 with other packages: packages0 -> packages1",
        "it went on at step 2 with other world_size: 1 -> 2",
        "it went on at step 2 with other strategy: SingleDeviceStrategy -> DDPStrategy",
    ]
    assert run.packages == {"torch": "2.14"}


def test_uncommitted_work_is_read_and_what_it_lacks_is_told(tmp_path: Path) -> None:
    git = replace(GIT, dirty=True, omitted={"big.py": "9 bytes"})
    code = replace(
        CODE, repositories={"mmtrain": Repository(git, "diff.patch", "0" * 64), "x": Repository(None, problem="no")}
    )
    path = write_recorded(tmp_path / "run", replace(MANIFEST, code={"code0": code}))
    (path / "diff.patch").write_text("+work\n")
    run = gather(path)
    assert run.patch("mmtrain") == "+work\n"
    assert run.patch("x") is None
    assert run.problems == [
        "of the code of x not all is recorded: no",
        "the uncommitted big.py is not in the patch of mmtrain: 9 bytes",
    ]
    (path / "diff.patch").unlink()
    assert gather(path).patch("mmtrain") is None
