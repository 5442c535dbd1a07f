"""A folder of images with captions or labels, packed into the shards that ``mmtrain.data.image_text`` reads."""

from __future__ import annotations

import json
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmtrain.data.pack.catalogue import Catalogue
from mmtrain.data.pack.faults import BadItemError, Faults
from mmtrain.data.pack.folder import PackFolder
from mmtrain.data.pack.job import pack_shards
from mmtrain.data.pack.pairs import (
    IMAGE_SUFFIXES,
    CaptionTable,
    Pair,
    classes_of_folder,
    pairs_of_folder,
    pairs_of_table,
)
from mmtrain.data.pack.pictures import Resize, prepare
from mmtrain.data.plan.order import permutation
from mmtrain.data.shards.atomic import write_atomically
from mmtrain.data.shards.manifest import Manifest
from mmtrain.data.shards.write import Sample
from mmtrain.errors import ConfigError, DataError

VERSION = 1
"""To be raised whenever the same images would give other shards."""

# Bytes of a tar archive: members begin at blocks, two empty ones end it, and its length is a multiple of records.
_BLOCK, _END, _RECORD = 512, 2 * 512, 20 * 512


def pack_images(
    folder: str | Path,
    out: str | Path,
    *,
    captions: CaptionTable | None = None,
    samples_per_shard: int = 10_000,
    shard_size: int | None = None,
    shuffle: int | None = None,
    resize: Resize | None = None,
    skip_bad: bool = False,
    num_workers: int = 1,
) -> Manifest:
    """Packs the images of a folder, with their captions and labels, into ``out``.

    Members of a sample: the image (``jpg``, ``png`` or ``webp``, as its bytes say), ``txt``, and ``json`` with
    ``{"label": int}`` where there are labels. Without a table, captions are read from ``x.txt`` beside ``x.jpg``; where
    the first image has none, the images lie in class folders: the folder's number in sorted order is the label, its
    name the caption, and ``classes.json`` lists them. A pack that was interrupted goes on; a finished one is returned.

    Args:
        folder: The images, at any depth; hidden files are left out.
        out: The data set's folder: new, empty, or one in which this pack was begun.
        captions: The table that says which images to pack, in which order.
        samples_per_shard: Samples of a shard, where ``shard_size`` is None.
        shard_size: Most bytes of a shard, by the images' sizes before ``resize``.
        shuffle: Seed of a random order; None keeps the order of the table, or of the paths.
        resize: Makes large images smaller; None copies every file byte for byte.
        skip_bad: Leaves out what cannot be packed and lists it in ``pack.json``.
        num_workers: Processes; they change no byte of the result.

    Raises:
        ConfigError: A number is out of range.
        DataError: Images are missing, unreadable, or listed twice; the table is wrong; or ``out`` holds other things.
        RunError: A worker process was killed.
    """
    root, out = Path(folder), Path(out)
    _check_options(root, samples_per_shard, shard_size, resize)
    made_from = {
        "pack": "images",
        "version": VERSION,
        "captions": None if captions is None else asdict(captions) | {"path": captions.path.name},
        "samples_per_shard": samples_per_shard if shard_size is None else None,
        "shard_size": shard_size,
        "shuffle": shuffle,
        "resize": None if resize is None else asdict(resize) | _codecs(),
        "skip_bad": skip_bad,
    }
    with PackFolder.claim(out, "images", made_from) as place:
        faults, sizes = Faults(skip_bad), array("Q")
        classes = classes_of_folder(root) if captions is None else None
        found = pairs_of_folder(root, classes, faults) if captions is None else pairs_of_table(captions, faults)
        catalogue = Catalogue(place.work / "catalogue.jsonl", _records(root, found, faults, sizes))
        numbers = _without_repeats(catalogue, faults)
        faults.refuse(str(root if captions is None else captions.path))
        finished = place.confirm_inputs({"images": len(numbers), "bytes": sum(sizes), "sha256": catalogue.sha256})
        if finished is not None:
            return finished
        if shuffle is not None:
            numbers = numbers[permutation(len(numbers), "pack", shuffle)]
        bounds = _bounds(np.array(sizes, np.int64)[numbers], samples_per_shard, shard_size)
        digits = max(9, len(str(len(numbers))))

        def records(shard: int) -> Sequence[Any]:
            start, stop = bounds[shard], bounds[shard + 1]
            keys = (f"{number:0{digits}d}" for number in range(start, stop))
            return list(zip(keys, catalogue.read(numbers[start:stop].tolist()), strict=True))

        def describe(totals: Mapping[str, int]) -> None:
            if classes is not None:
                content = json.dumps({"classes": classes}, indent=1, ensure_ascii=False)
                write_atomically(out / "classes.json", content.encode() + b"\n")

        packer = _PackImages(root, resize)
        return pack_shards(
            place, packer, records, len(bounds) - 1, listing=faults, num_workers=num_workers, describe=describe
        )


@dataclass(frozen=True)
class _PackImages:
    root: Path
    resize: Resize | None

    def samples(self, records: Sequence[Any], faults: Faults, totals: Counter[str]) -> Iterator[Sample]:
        for number, (path, caption, label, *_) in records:
            try:
                extension, data = prepare(_read(self.root / path), self.resize)
            except BadItemError as bad:
                faults.add(path, str(bad))
                continue
            members = {extension: data, "txt": caption.encode()}
            if label is not None:
                members["json"] = json.dumps({"label": label}).encode()
            yield f"{number}_{_safe(Path(path).stem)}", members


def _check_options(root: Path, samples_per_shard: int, shard_size: int | None, resize: Resize | None) -> None:
    if not root.is_dir():
        raise DataError("the folder of images is missing", where=str(root), mend="name a folder that holds images")
    numbers = {"samples_per_shard": samples_per_shard, "shard_size": 1 if shard_size is None else shard_size}
    if resize is not None:
        numbers |= {"resize": resize.side}
        if not 1 <= resize.quality <= 100:
            raise ConfigError(f"a JPEG's quality is 1 to 100, not {resize.quality}", where="quality", mend="set 90")
    for name, number in numbers.items():
        if number < 1:
            raise ConfigError(f"{name} is {number}", where=name, mend="give a number of at least 1")


def _codecs() -> dict[str, str]:
    """The libraries whose versions may change the pixels."""
    return {name: version(name) for name in ("opencv-python-headless", "simplejpeg", "pillow")}


def _records(root: Path, pairs: Iterable[Pair], faults: Faults, sizes: array[int]) -> Iterator[list[Any]]:
    """A record for each pair whose file is there, with what tells whether it changed; adds its room in a tar."""
    for pair in pairs:
        if (suffix := Path(pair.path).suffix.lower()) not in IMAGE_SUFFIXES:
            faults.add(pair.path, f"{suffix or 'a file without a suffix'} is not supported; convert it to JPEG or PNG")
            continue
        try:
            status = (root / pair.path).stat()
        except OSError as error:
            missing = isinstance(error, FileNotFoundError)
            faults.add(pair.path, "the file is missing" if missing else f"it cannot be read: {error.strerror}")
            continue
        members = [status.st_size, len(pair.caption.encode())] + ([1] if pair.label is not None else [])
        sizes.append(sum(_BLOCK + -(-size // _BLOCK) * _BLOCK for size in members))
        yield [pair.path, pair.caption, pair.label, status.st_size, status.st_mtime_ns]


def _without_repeats(catalogue: Catalogue, faults: Faults) -> NDArray[np.int64]:
    """Numbers of the records, the first of equal ones alone."""
    repeats = catalogue.repeats()
    for number in repeats.tolist():
        (path, *_), *_ = catalogue.read([number])
        faults.add(path, "it is listed twice, with the same caption")
    return np.setdiff1d(np.arange(len(catalogue)), repeats)


def _bounds(sizes: NDArray[np.int64], samples_per_shard: int, shard_size: int | None) -> list[int]:
    """Where each shard starts, and where the last one ends."""
    if shard_size is None:
        return [*range(0, len(sizes), samples_per_shard), len(sizes)]
    room = shard_size // _RECORD * _RECORD - _END
    ends = np.cumsum(sizes)
    bounds = [0]
    while bounds[-1] < len(sizes):
        before = ends[bounds[-1] - 1] if bounds[-1] else 0
        fitting = int(np.searchsorted(ends, before + room, "right"))
        bounds.append(max(fitting, bounds[-1] + 1))  # an image larger than a shard has one to itself
    return bounds


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadItemError(f"it cannot be read: {error.strerror}") from None


def _safe(stem: str) -> str:
    """The stem in the letters that every tool takes in a key; a dot would end it."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", stem)[:48]
