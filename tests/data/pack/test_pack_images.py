"""Packing images: what goes in comes out, in one order, and what cannot be packed is told."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import webdataset as wds
from pack_case import bad_items, digests, image, samples, write_images, write_table

from mmtrain.data.decode.codec import decode
from mmtrain.data.pack.images import pack_images
from mmtrain.data.pack.pairs import CaptionTable
from mmtrain.data.pack.pictures import Resize
from mmtrain.errors import DataError

TABLES = (".csv", ".tsv", ".jsonl", ".parquet")


def caption(number: int) -> str:
    return f'Bild {number}, "größer"\nin two lines'


def table_of(images: dict[str, bytes], path: Path) -> CaptionTable:
    rows = [{"image": name, "words": caption(n), "class": n % 4} for n, name in enumerate(reversed(images))]
    return CaptionTable(write_table(path, rows), "image", "words", "class")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "images"


@pytest.fixture
def captioned(folder: Path) -> dict[str, bytes]:
    """Images with a caption beside each."""
    images = write_images(folder)
    for number, path in enumerate(images):
        (folder / path).with_suffix(".txt").write_text(f"picture {number}\n")
    return images


@pytest.mark.parametrize("suffix", TABLES)
def test_a_table_gives_each_image_its_caption_and_label_in_its_order(suffix: str, folder: Path, tmp_path: Path) -> None:
    images = write_images(folder)
    table = table_of(images, tmp_path / f"table{suffix}")
    manifest = pack_images(folder, tmp_path / "out", captions=table, samples_per_shard=10)
    assert [shard.samples for shard in manifest.shards] == [10, 10, 5]
    for number, (path, raw) in enumerate(zip(reversed(images), samples(tmp_path / "out"), strict=True)):
        assert raw[path.rpartition(".")[2]] == images[path]
        assert raw["txt"].decode() == caption(number)
        assert json.loads(raw["json"]) == {"label": number % 4}
        assert raw["__key__"] == f"{number:09d}_{Path(path).stem.replace(' ', '_').replace('.', '_')}"


def test_all_kinds_of_tables_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    images = write_images(folder)
    for suffix in TABLES:
        table = table_of(images, tmp_path / f"table{suffix}")
        pack_images(folder, tmp_path / "packed" / suffix[1:] / "out", captions=table)
    assert len({json.dumps(digests(tmp_path / "packed" / suffix[1:] / "out")) for suffix in TABLES}) == 1


def test_captions_are_read_beside_the_images(captioned: dict[str, bytes], folder: Path, tmp_path: Path) -> None:
    pack_images(folder, tmp_path / "out")
    found = samples(tmp_path / "out")
    assert [raw["txt"].decode() for raw in found] == [f"picture {number}" for number in range(25)]
    assert [set(raw) & {"json"} for raw in found] == [set()] * 25
    assert not (tmp_path / "out" / "classes.json").exists()


def test_class_folders_give_labels_and_class_names(folder: Path, tmp_path: Path) -> None:
    for number, name in enumerate(("n02", "n01", "n10")):
        (folder / name / "deep").mkdir(parents=True)
        (folder / name / "deep" / "x.jpg").write_bytes(image(number))
    (folder / "notes").mkdir()  # without an image: no class
    pack_images(folder, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "classes.json").read_text()) == {"classes": ["n01", "n02", "n10"]}
    found = [(json.loads(raw["json"])["label"], raw["txt"].decode(), raw["jpg"]) for raw in samples(tmp_path / "out")]
    assert found == [(0, "n01", image(1)), (1, "n02", image(0)), (2, "n10", image(2))]


def test_webdataset_reads_the_same_samples(captioned: dict[str, bytes], folder: Path, tmp_path: Path) -> None:
    manifest = pack_images(folder, tmp_path / "out", samples_per_shard=10)
    paths = [str(manifest.shard_path(number)) for number in range(len(manifest.shards))]
    theirs = [
        {name: value for name, value in sample.items() if name not in ("__url__", "__local_path__")}
        for sample in wds.WebDataset(paths, shardshuffle=False)
    ]
    assert theirs == samples(tmp_path / "out")


def test_workers_change_no_byte(captioned: dict[str, bytes], folder: Path, tmp_path: Path) -> None:
    for workers in (1, 3):
        out = tmp_path / str(workers) / "out"
        pack_images(folder, out, samples_per_shard=4, shuffle=5, resize=Resize(24), num_workers=workers)
    assert digests(tmp_path / "1" / "out") == digests(tmp_path / "3" / "out")


def test_a_seed_is_an_order(captioned: dict[str, bytes], folder: Path, tmp_path: Path) -> None:
    orders = {}
    for name, seed in (("none", None), ("zero", 0), ("one", 1), ("one_again", 1)):
        pack_images(folder, tmp_path / name, shuffle=seed, samples_per_shard=10)
        orders[name] = [raw["txt"] for raw in samples(tmp_path / name)]
    assert orders["one"] == orders["one_again"]
    assert len({tuple(order) for order in orders.values()}) == 3
    assert len({tuple(sorted(order)) for order in orders.values()}) == 1


def test_no_shard_is_larger_than_asked_unless_one_image_is(folder: Path, tmp_path: Path) -> None:
    folder.mkdir()
    for number in range(40):
        side = 400 if number == 7 else 40 + number
        (folder / f"{number:02d}.png").write_bytes(image(number, "png", side, side))
        (folder / f"{number:02d}.txt").write_text("words " * number + "end")
    limit = 40_000
    manifest = pack_images(folder, tmp_path / "out", shard_size=limit)
    assert [raw["txt"].decode() for raw in samples(tmp_path / "out")] == ["words " * n + "end" for n in range(40)]
    larger = [shard.samples for shard in manifest.shards if shard.bytes > limit]
    assert larger == [1]
    assert len(manifest.shards) < 25


def test_only_larger_images_are_made_smaller(folder: Path, tmp_path: Path) -> None:
    folder.mkdir()
    pictures = {"a.png": image(0, "png", 96, 144), "b.jpg": image(1, "jpg", 32, 90)}
    for name, data in pictures.items():
        (folder / name).write_bytes(data)
        (folder / name).with_suffix(".txt").write_text(name)
    pack_images(folder, tmp_path / "out", resize=Resize(32, quality=95))
    smaller, small = samples(tmp_path / "out")
    assert small["jpg"] == pictures["b.jpg"]
    assert decode(smaller["jpg"]).shape == (32, 48, 3)
    blocks = decode(pictures["a.png"]).reshape(32, 3, 48, 3, 3).mean((1, 3))
    assert np.abs(decode(smaller["jpg"]) - blocks).mean() < 4


def break_images(folder: Path) -> None:
    paths = sorted(folder.rglob("*.[jpw]*"))
    jpgs = [path for path in paths if path.suffix == ".jpg"]
    jpgs[0].write_bytes(jpgs[0].read_bytes()[:-400])
    jpgs[1].write_bytes(b"")
    next(path for path in paths if path.suffix == ".png").write_bytes(b"GIF89a" + bytes(50))
    (folder / "a" / "anim.gif").write_bytes(b"GIF89a")
    (folder / "a" / "anim.txt").write_text("moving")


def test_bad_images_are_named(captioned: dict[str, bytes], folder: Path, tmp_path: Path) -> None:
    break_images(folder)
    with pytest.raises(DataError) as refused:
        pack_images(folder, tmp_path / "out")
    assert "a/anim.gif: .gif is not supported" in refused.value.message
    (folder / "a" / "anim.gif").unlink()
    with pytest.raises(DataError) as refused:
        pack_images(folder, tmp_path / "other", num_workers=2)
    assert refused.value.message.startswith("3 items cannot be packed:")
    assert "a/pic 0.v1.jpg: it cannot be decoded: " in refused.value.message
    assert "a/pic 12.v1.jpg: the file is empty" in refused.value.message
    assert "it is not a JPEG, PNG or WebP file" in refused.value.message
    assert "--skip-bad" in str(refused.value.mend)


def test_bad_images_are_left_out_and_listed(captioned: dict[str, bytes], folder: Path, tmp_path: Path) -> None:
    good = {raw["txt"] for raw in (pack_images(folder, tmp_path / "good"), samples(tmp_path / "good"))[1]}
    break_images(folder)
    for workers in (1, 2):
        pack_images(folder, tmp_path / str(workers) / "out", skip_bad=True, samples_per_shard=3, num_workers=workers)
    kept = {raw["txt"] for raw in samples(tmp_path / "1" / "out")}
    assert kept < good and len(kept) == 22
    assert [line.partition(":")[0] for line in bad_items(tmp_path / "1" / "out")] == [
        "a/anim.gif",
        "a/pic 0.v1.jpg",
        "a/pic 10.v1.png",
        "a/pic 12.v1.jpg",
    ]
    assert digests(tmp_path / "1" / "out") == digests(tmp_path / "2" / "out")


def test_nothing_left_is_an_error(folder: Path, tmp_path: Path) -> None:
    folder.mkdir()
    (folder / "x.jpg").write_bytes(b"\xff\xd8\xff?")
    (folder / "x.txt").write_text("x")
    with pytest.raises(DataError, match=r"nothing is left to pack: 1 items were left out, .*x\.jpg"):
        pack_images(folder, tmp_path / "out", skip_bad=True)


def test_rows_that_cannot_be_used_are_told_together(folder: Path, tmp_path: Path) -> None:
    paths = list(write_images(folder, 3))
    rows = [
        *({"file": path, "caption": "fine"} for path in paths),
        {"file": "../table.csv", "caption": "outside"},
        {"file": "/etc/hostname.jpg", "caption": "outside"},
        {"file": paths[0], "caption": " "},
        *({"file": f"gone/{number}.jpg", "caption": "missing"} for number in range(4)),
        {"file": paths[1], "caption": "fine"},
        {"file": paths[1], "caption": "another caption of the same picture"},
    ]
    table = CaptionTable(write_table(tmp_path / "table.csv", rows))
    with pytest.raises(DataError) as refused:
        pack_images(folder, tmp_path / "out", captions=table)
    told = refused.value.message.splitlines()
    assert told[0] == "8 items cannot be packed:"
    assert told[1].strip() == "table.csv, line 5: its path leads out of the folder: '../table.csv'"
    assert told[3].strip() == "table.csv, line 7: its 'caption' is empty"
    assert told[4].strip() == "gone/0.jpg: the file is missing"
    assert told[6].strip() == "and 3 more"
    pack_images(folder, tmp_path / "skipped", captions=table, skip_bad=True)
    assert [raw["txt"] for raw in samples(tmp_path / "skipped")] == [
        *(b"fine", b"fine", b"fine"),
        b"another caption of the same picture",
    ]
    assert bad_items(tmp_path / "skipped")[-1] == f"{paths[1]}: it is listed twice, with the same caption"


@pytest.mark.parametrize("suffix", TABLES)
def test_an_unknown_column_is_told_the_nearest(suffix: str, folder: Path, tmp_path: Path) -> None:
    table = table_of(write_images(folder, 4), tmp_path / f"table{suffix}")
    with pytest.raises(DataError, match="no column 'wrods'") as refused:
        pack_images(folder, tmp_path / "out", captions=CaptionTable(table.path, "image", "wrods"))
    assert refused.value.mend == "did you mean 'words'?"


@pytest.mark.parametrize("label", ["cat", 1.5, -1, ""])
def test_a_label_is_a_number_of_a_class(label: object, folder: Path, tmp_path: Path) -> None:
    rows = [{"file": path, "caption": "fine", "label": label} for path in write_images(folder, 2)]
    table = CaptionTable(write_table(tmp_path / "table.csv", rows), label_column="label")
    with pytest.raises(DataError, match="not an integer"):
        pack_images(folder, tmp_path / "out", captions=table)


def test_some_captions_missing_is_told_whichever_comes_first(
    captioned: dict[str, bytes], folder: Path, tmp_path: Path
) -> None:
    first, *_, last = (folder / path for path in captioned)
    last.with_suffix(".txt").unlink()
    with pytest.raises(DataError, match=r"1 item cannot.*\n.*no caption pic 9.v1.txt beside it"):
        pack_images(folder, tmp_path / "out")
    last.with_suffix(".txt").touch()
    with pytest.raises(DataError, match="is empty"):
        pack_images(folder, tmp_path / "out2")
    first.with_suffix(".txt").unlink()
    with pytest.raises(DataError, match="has a caption beside it, and other images have none"):
        pack_images(folder, tmp_path / "out3")


def test_hidden_files_are_left_out_and_a_loop_of_links_is_refused(
    captioned: dict[str, bytes], folder: Path, tmp_path: Path
) -> None:
    (folder / "._junk.jpg").write_bytes(b"?")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "junk.jpg").write_bytes(b"?")
    assert pack_images(folder, tmp_path / "out").samples == 25
    os.symlink(folder, folder / "b" / "again")
    with pytest.raises(DataError, match="leads back"):
        pack_images(folder, tmp_path / "out2")


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(DataError, match="holds no image"):
        pack_images(tmp_path, tmp_path / "out")
    with pytest.raises(DataError, match="is missing"):
        pack_images(tmp_path / "nowhere", tmp_path / "out2")
