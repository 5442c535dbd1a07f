"""A pack's folder: what was begun goes on, killed or not, and nothing else gets mixed in."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from pack_case import digests, image, write_table

from mmtrain.data.pack.folder import PackFolder, Report
from mmtrain.data.pack.images import pack_images
from mmtrain.data.pack.text import pack_text
from mmtrain.errors import DataError, RunError

TIMEOUT = 120


def texts(path: Path, count: int = 20, words: int = 3) -> Path:
    return write_table(path, [{"text": f"document {number}" + " word" * words} for number in range(count)])


def shards(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in sorted(folder.glob("*.tar"))}


def begin(arguments: Sequence[object]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "mmtrain", "data", "pack", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def kill_after(process: subprocess.Popen[str], out: Path, count: int) -> None:
    """Kills it the moment that so many shards are there."""
    deadline = time.monotonic() + TIMEOUT
    while len(shards(out)) < count:
        assert process.poll() is None, f"ended before it was killed: {process.communicate()[0]}"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=TIMEOUT)


def wait_for_workers(out: Path) -> dict[str, int]:
    """The shards, once the orphaned workers have finished theirs and left."""
    before = None
    while (now := {path: path.stat().st_size for path in out.iterdir() if path.is_file()}) != before:
        before = now
        time.sleep(1)
    return shards(out)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_pack_goes_on_and_ends_in_the_same_bytes(workers: int, tmp_path: Path) -> None:
    path = texts(tmp_path / "a.jsonl", 8_000, words=100)
    options = ("text", path, "--tokenizer", "bytes", "--samples-per-shard", 100, "--workers", workers, "--out")
    out = tmp_path / "killed" / "out"
    kill_after(begin([*options, out]), out, 5)
    first = wait_for_workers(out)
    kill_after(begin([*options, out]), out, len(first) + 5)
    second = wait_for_workers(out)
    assert not (out / "manifest.json").exists()
    last = begin([*options, out])
    said, _ = last.communicate(timeout=TIMEOUT)
    assert last.returncode == 0, said
    final = shards(out)
    assert len(first) < len(second) < len(final) == 80
    assert {name: final[name] for name in second} == second, "finished shards were written anew"
    pack_text([path], tmp_path / "whole" / "out", tokenizer="bytes", samples_per_shard=100)
    assert digests(out) == digests(tmp_path / "whole" / "out")
    assert (out / "dataset.json").read_bytes() == (tmp_path / "whole" / "out" / "dataset.json").read_bytes()
    assert not (out / ".pack").exists()


def test_a_pack_of_images_that_failed_goes_on_when_it_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "images" / "class"
    folder.mkdir(parents=True)
    for number in range(12):
        (folder / f"{number:02d}.png").write_bytes(image(number, "png"))
    out = tmp_path / "failed" / "out"
    (folder / "07.png").chmod(0)
    read = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path.name == "07.png":
            raise PermissionError(13, "Permission denied")
        return read(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", refuse)
        with pytest.raises(DataError, match=r"class/07\.png: it cannot be read: Permission denied"):
            pack_images(tmp_path / "images", out, samples_per_shard=2)
    (folder / "07.png").chmod(0o644)
    kept = shards(out)
    assert list(kept) == ["images-000000.tar", "images-000001.tar", "images-000002.tar"]
    assert not list(out.glob(".images*"))
    pack_images(tmp_path / "images", out, samples_per_shard=2)
    assert {name: shards(out)[name] for name in kept} == kept
    pack_images(tmp_path / "images", tmp_path / "whole" / "out", samples_per_shard=2)
    assert digests(out) == digests(tmp_path / "whole" / "out")


def test_a_finished_pack_is_left_as_it_is(tmp_path: Path) -> None:
    path = texts(tmp_path / "a.jsonl")
    first = pack_text([path], tmp_path / "out", tokenizer="bytes")
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").iterdir()}
    assert pack_text([path], tmp_path / "out", tokenizer="bytes") == first
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "out").iterdir()} == before


def test_a_finished_pack_that_lost_a_shard_and_its_manifest_is_made_whole(tmp_path: Path) -> None:
    path = texts(tmp_path / "a.jsonl")
    pack_text([path], tmp_path / "out", tokenizer="bytes", samples_per_shard=6)
    before = digests(tmp_path / "out")
    (tmp_path / "out" / "text-000001.tar").unlink()
    (tmp_path / "out" / "manifest.json").unlink()
    pack_text([path], tmp_path / "out", tokenizer="bytes", samples_per_shard=6)
    assert digests(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"samples_per_shard": 7}, "samples_per_shard is 6, not 7"),
        ({"append_eos": False}, "append_eos is true, not false"),
        ({"tokenizer": "clip"}, 'tokenizer is {"name": "bytes", '),
    ],
)
def test_another_pack_is_refused(options: dict[str, object], difference: str, tmp_path: Path) -> None:
    path = texts(tmp_path / "a.jsonl")
    kept = {"tokenizer": "bytes", "samples_per_shard": 6}
    pack_text([path], tmp_path / "out", **kept)  # type: ignore[arg-type]
    before = digests(tmp_path / "out")
    with pytest.raises(DataError, match="holds another pack") as refused:
        pack_text([path], tmp_path / "out", **kept | options)  # type: ignore[arg-type]
    assert difference in refused.value.message
    assert digests(tmp_path / "out") == before


def test_changed_inputs_are_refused(tmp_path: Path) -> None:
    path = texts(tmp_path / "a.jsonl")
    pack_text([path], tmp_path / "out", tokenizer="bytes")
    os.utime(path, ns=(0, 0))
    with pytest.raises(DataError, match="the inputs changed since this pack was begun: sha256 is"):
        pack_text([path], tmp_path / "out", tokenizer="bytes")
    path.unlink()
    with pytest.raises(DataError, match="an input is missing"):
        pack_text([path], tmp_path / "out", tokenizer="bytes")


def test_a_mistake_that_wrote_no_shard_needs_no_other_folder(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n{"text": ""}\n')
    with pytest.raises(DataError, match="no column 'txt'"):
        pack_text([path], tmp_path / "out", tokenizer="bytes", text_column="txt")
    with pytest.raises(DataError, match="is empty"):
        pack_text([path], tmp_path / "out", tokenizer="bytes")
    path.write_text('{"text": "one"}\n{"text": "two"}\n')
    assert pack_text([path], tmp_path / "out", tokenizer="bytes").samples == 2


def test_a_folder_with_other_content_is_refused_and_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(DataError, match="in use, and not by a pack") as refused:
        pack_text([texts(tmp_path / "a.jsonl")], out, tokenizer="bytes")
    assert refused.value.where == str(out)
    assert [file.name for file in out.iterdir()] == ["thesis.tex"]
    with pytest.raises(DataError, match="in use, and not by a pack"):
        pack_text([tmp_path / "a.jsonl"], out / "thesis.tex", tokenizer="bytes")


def test_a_damaged_record_is_refused(tmp_path: Path) -> None:
    path = texts(tmp_path / "a.jsonl")
    pack_text([path], tmp_path / "out", tokenizer="bytes")
    (tmp_path / "out" / "pack.json").write_text("[]")
    with pytest.raises(DataError, match="not the record of a pack"):
        pack_text([path], tmp_path / "out", tokenizer="bytes")


def test_two_packs_do_not_share_a_folder_at_a_time(tmp_path: Path) -> None:
    path = texts(tmp_path / "a.jsonl")
    with PackFolder.claim(tmp_path / "out", "text", {}), pytest.raises(DataError, match="another process packs"):
        pack_text([path], tmp_path / "out", tokenizer="bytes")


def test_workers_of_a_killed_pack_publish_nothing_in_a_folder_that_was_taken_over(tmp_path: Path) -> None:
    with PackFolder.claim(tmp_path / "out", "text", {"pack": "the killed one"}) as killed:
        unfinished = killed.beside(killed.shard(0))
        unfinished.touch()
    with PackFolder.claim(tmp_path / "out", "text", {"pack": "another"}) as place:
        with pytest.raises(RunError, match="another process packs into this folder now"):
            killed.publish(0, unfinished, Report(1))
        assert place.finished(0) is None
        assert not place.shard(0).exists()


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    path = texts(tmp_path / "a.jsonl")
    with monkeypatch.context() as patch:
        patch.setattr("mmtrain.data.pack.writer.os.fsync", full)
        with pytest.raises(DataError, match="No space left on device"):
            pack_text([path], tmp_path / "out", tokenizer="bytes")
    assert not list((tmp_path / "out").glob("*.tar")) + list((tmp_path / "out").glob(".*.tmp"))
    pack_text([path], tmp_path / "out", tokenizer="bytes")


def test_the_record_tells_what_was_packed_and_moves_with_the_folder(tmp_path: Path) -> None:
    path = texts(tmp_path / "a.jsonl")
    pack_text([path], tmp_path / "out", tokenizer="bytes", samples_per_shard=8)
    shutil.move(tmp_path / "out", tmp_path / "moved")
    record = json.loads((tmp_path / "moved" / "pack.json").read_text())
    assert record["made_from"]["samples_per_shard"] == 8
    assert record["inputs"]["files"] == 1
    assert record["result"] == {"samples": 20, "shards": 3, "skipped": 0, "bad": []}
    assert str(tmp_path) not in json.dumps(record)


def test_a_report_alone_finishes_no_shard(tmp_path: Path) -> None:
    with PackFolder.claim(tmp_path / "out", "text", {}) as place:
        unfinished = place.beside(place.shard(0))
        unfinished.touch()
        place.publish(0, unfinished, Report(1))
        assert place.finished(0) == Report(1)
        place.shard(0).unlink()  # as if it was killed between the report and the shard's name
        assert place.finished(0) is None
