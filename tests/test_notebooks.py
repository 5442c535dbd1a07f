"""Each notebook runs from a clean state as it is committed, and is committed without what it prints."""

from __future__ import annotations

import json
import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode
from tiny_run import ROOT

from mmtrain.data.download import default_cache_dir

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CACHE = str(default_cache_dir())  # of this home: archives alone are kept between runs
PICTURES = {"01_quickstart": 3, "02_data": 3, "03_compare_runs": 1, "04_attention": 5}


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.setenv("MMTRAIN_CACHE", CACHE)
    monkeypatch.delenv("MMTRAIN_DATA", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(work)}})
    client.execute()
    assert sum("image/png" in output.get("data", {}) for output in outputs(notebook)) == PICTURES[path.stem]
    for output in outputs(notebook):
        # A command that fails does not end a notebook by itself.
        said = output.get("text", "")
        assert output.get("name") != "stderr", said
        assert "Traceback" not in said and "error: " not in said, said
    assert {entry.name for entry in work.iterdir()} <= {"out"}, "it writes into one folder, which git ignores"


def outputs(notebook: NotebookNode) -> list[NotebookNode]:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert outputs(notebook) == []
    assert all(cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code")
    assert all(cell.metadata == {} for cell in notebook.cells)
    assert notebook.metadata.keys() == {"kernelspec", "language_info"}
    assert notebook.metadata.language_info == {"name": "python"}, "no version of whoever ran it"
    assert path.stat().st_size < 20_000


def test_all_notebooks_are_known() -> None:
    assert [path.stem for path in NOTEBOOKS] == list(PICTURES)
    assert "out/" in (ROOT / "notebooks" / ".gitignore").read_text()
    assert all(json.loads(path.read_text())["nbformat"] == 4 for path in NOTEBOOKS)
    assert not any(os.access(path, os.X_OK) for path in NOTEBOOKS)
