"""The hashes of source code: which files count, and what one changed line changes."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

import mmtrain
from mmtrain.run import source_tree as module
from mmtrain.run.source_tree import json_sha256, packages_of, source_tree


@pytest.fixture
def package(tmp_path: Path) -> Path:
    root = tmp_path / "own"
    for name in (
        "__init__.py",
        "deep/loss.py",
        "kernel.cu",
        "__pycache__/loss.py",
        ".hidden/x.py",
        "notes.md",
        "c.yaml",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def test_source_files_are_hashed_and_nothing_else(package: Path) -> None:
    tree = source_tree(package)
    assert tree.files == {
        name: hashlib.sha256(name.encode()).hexdigest() for name in ("__init__.py", "kernel.cu", "deep/loss.py")
    }
    assert tree.problem == ""


def test_one_changed_line_changes_one_file_and_the_whole(package: Path) -> None:
    before = source_tree(package)
    (package / "deep" / "loss.py").write_text("other")
    after = source_tree(package)
    assert [name for name in before.files if before.files[name] != after.files[name]] == ["deep/loss.py"]
    assert before.sha256 != after.sha256


def test_a_module_of_one_file_is_hashed(package: Path) -> None:
    assert list(source_tree(package / "deep" / "loss.py").files) == ["loss.py"]


def test_a_file_that_cannot_be_read_is_a_problem_and_no_error(package: Path) -> None:
    os.symlink("nowhere", package / "broken.py")
    tree = source_tree(package)
    assert tree.problem == "broken.py: No such file or directory"
    assert "__init__.py" in tree.files


def test_a_link_to_a_folder_is_not_followed(package: Path) -> None:
    os.symlink("..", package / "loop")
    assert len(source_tree(package).files) == 3


def test_a_package_of_too_many_files_says_so(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_FILES", 2)
    tree = source_tree(package)
    assert (len(tree.files), tree.problem) == (2, "only the first 2 files were hashed")


def test_the_packages_of_a_config_are_those_of_its_targets(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "single.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    config = {
        "model": {"_target_": "own.deep.loss.X", "image": {"_target_": "torch.nn.Linear"}},
        "callback": [{"_target_": "single.Y"}, {"_target_": "lightning.pytorch.Z"}, {"_target_": "not_there.Y"}],
    }
    root = Path(mmtrain.__file__).resolve().parent
    assert packages_of(config) == {"mmtrain": root, "own": package, "single": tmp_path / "single.py"}


def test_json_hashes_do_not_depend_on_the_order_of_keys() -> None:
    assert json_sha256({"a": 1, "b": [1, 2]}) == json_sha256({"b": [1, 2], "a": 1})
    assert json_sha256({"a": 1}) != json_sha256({"a": 1.5})
