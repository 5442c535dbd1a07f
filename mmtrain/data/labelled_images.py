"""Images in classes: what ``conf/data/mnist.yaml`` and ``conf/data/labelled_images.yaml`` instantiate.

A folder of labelled images holds shards with members ``KEY.jpg`` (or ``.jpeg``, ``.png``, ``.webp``) and ``KEY.cls``
(the class's number in ASCII, webdataset's convention) or ``KEY.json`` (``{"label": int, ...}``), their
``manifest.json``, and, where the classes have names, ``classes.json``: ``{"classes": [a name for each number]}``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from mmtrain.data.decode.codec import UInt8Array
from mmtrain.data.decode.mix import Mix
from mmtrain.data.decode.transform import EvalTransform, TrainTransform
from mmtrain.data.fetch.reader import ShardReader
from mmtrain.data.loader.loader import Loader, WorkerKind
from mmtrain.data.loader.samples import OnFault
from mmtrain.data.plan.draw import SampleSeed, Stream
from mmtrain.data.plan.order import Shuffle
from mmtrain.data.sample_loading import EvalSet, SampleLoading
from mmtrain.data.shards.build import open_shards
from mmtrain.data.shards.index import RawSample
from mmtrain.data.training_set import Cache, Order, TrainingSet, TrainTail
from mmtrain.errors import ConfigError, DataError

_IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
_CLASSES = "classes.json"


class LabelledImageSource(Protocol):
    """Where labelled images come from.

    Attributes:
        eval_sets: Folders to evaluate on.
    """

    @property
    def eval_sets(self) -> tuple[str, ...]: ...

    def prepare(self, root: Path) -> None:
        """Writes ``root/train`` and ``root/<evaluation set>``, each with shards and a ``manifest.json``.

        Does nothing where they stand. Safe to call from many processes at once, and to interrupt.

        Raises:
            DataError: Something cannot be had or read, or ``root`` holds something else.
        """


class LabelledImages:
    """Images and their classes, for training and evaluation.

    A batch holds ``image`` uint8 (B, 3, H, W), ``label`` int64 (B,), ``weight`` float32 (B,) with 0 for filler, and
    ``key``, a list of B strings. Where training images are mixed, it also holds ``label_b`` int64 (B,), the partner's
    label, and ``mix`` float32 (B,), the share of ``label``.

    Args:
        root: Folder of the data set: ``train/`` and one folder for each evaluation set.
        train_transform: Augmentation of the training images.
        eval_transform: View of the evaluation images.
        global_batch_size: Samples of a step, over all ranks.
        source: Fetches the data set and fills ``root``; None where the shards are there already.
        train: Folder, pattern or URL of the training shards, where they do not lie in ``root/train``.
        classes: The file of the classes' names; None takes ``root/train/classes.json``.
        num_classes: Number of classes; needed where there is no file of their names.
        filters: Predicates on the columns of the index, such as ``width >= 200``: only samples that pass are trained
            on.
        cache: Where remote shards are kept.
        eval: Names of the evaluation sets, folders in ``root``; None takes the source's.
        mix: Mixes training images with others of the training set. Partners are read from all over it: shards that
            lie elsewhere should all have room in the cache.
        micro_batch_size: Samples that are on a device at once; None takes a rank's whole share. Bounds memory, and
            changes no result.
        num_workers: Processes, or threads, that prepare batches, for each rank.
        workers: ``process``, or ``thread``.
        prefetch: Batches prepared ahead, by all workers of a rank together.
        lanes: Parts of the data set that are read side by side.
        window: Samples of a lane that are shuffled together.
        shuffle: One window after another (``block``), or each sample within a window around it (``slide``).
        tail: An epoch's last, short batch is filled with samples of weight 0 (``pad``), left out (``drop``), or goes
            on with the next epoch's first samples (``carry``).
        on_fault: A training sample that cannot be read or decoded, or whose partner cannot, stops the run (``raise``),
            or gives its row to another with weight 0 and is counted (``skip``). Evaluation always stops.
        seed: Seed of the order and of all draws.
    """

    def __init__(
        self,
        *,
        root: str | Path,
        train_transform: TrainTransform,
        eval_transform: EvalTransform,
        global_batch_size: int,
        source: LabelledImageSource | None = None,
        train: str | None = None,
        classes: str | None = None,
        num_classes: int | None = None,
        filters: Sequence[str] = (),
        cache: Cache | None = None,
        eval: Sequence[str] | None = None,
        mix: Mix | None = None,
        micro_batch_size: int | None = None,
        num_workers: int = 2,
        workers: WorkerKind = "process",
        prefetch: int = 4,
        lanes: int = 8,
        window: int = 4096,
        shuffle: Shuffle = "block",
        tail: TrainTail = "pad",
        on_fault: OnFault = "raise",
        seed: int = 0,
    ) -> None:
        self.root = Path(root)
        self.source = source
        self.train_transform = train_transform
        self.eval_transform = eval_transform
        self.mix = mix
        self.global_batch_size = global_batch_size
        self.micro_batch_size = micro_batch_size
        self.order = Order(global_batch_size, seed, lanes, window, shuffle, tail)
        self._loading = SampleLoading(self.order, micro_batch_size, num_workers, workers, prefetch, on_fault)
        self._train = train or self.root / "train"
        self._classes_path = Path(classes) if classes is not None else self.root / "train" / _CLASSES
        self._num_classes = num_classes
        self._filters = list(filters)
        self._cache = cache or Cache()
        if eval is not None:
            self.eval_names = list(eval)
        else:
            self.eval_names = list(source.eval_sets) if source is not None else []

    def prepare(self) -> None:
        """Fetches what is missing. To be called on every node before anything else.

        Raises:
            DataError: Something cannot be fetched, ``root`` holds another data set, or the classes are not known.
        """
        if self.source is not None:
            self.source.prepare(self.root)
        classes = self.classes
        for name in self.eval_names:
            self._require_classes(self.root / name / _CLASSES, classes)

    @cached_property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of their numbers; the numbers where there are no names.

        Raises:
            DataError: The file of names is missing or damaged.
            ConfigError: It has not ``num_classes`` names.
        """
        if self._num_classes is not None and not self._classes_path.exists():
            return [str(number) for number in range(self._num_classes)]
        names = _read_classes(self._classes_path)
        if self._num_classes not in (None, len(names)):
            reason = f"num_classes is {self._num_classes}, and {self._classes_path} names {len(names)} classes"
            raise ConfigError(reason, where="data.num_classes", mend="set data.num_classes=null")
        return names

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def fingerprints(self) -> dict[str, str]:
        """sha256 of everything that is read: ``train`` and ``eval/<name>``."""
        evals = {f"eval/{name}": open_shards(self.root / name).fingerprint for name in self.eval_names}
        return {**self._training.fingerprints, **evals}

    def steps_per_epoch(self) -> int:
        """Global batches of one pass over the training shards."""
        return len(self._training.plan(self.order, rank=0, world_size=1))

    def train_loader(self, rank: int, world_size: int) -> Loader:
        """Training batches of one rank: its whole share of each global batch.

        Raises:
            ConfigError: The ranks, lanes or micro-batches do not divide the global batch.
        """
        return self._loading.train(self._training, [self._train_encode], rank, world_size)

    def stages(self) -> dict[str, Callable[[RawSample, SampleSeed], object]]:
        """How a training sample is prepared, for `mmtrain doctor`: each stage does all that comes before it, too."""
        transform = self.train_transform
        stages: dict[str, Callable[[RawSample, SampleSeed], object]] = {
            "decode": lambda raw, seed: transform.decode(_image(raw), seed.generator(Stream.IMAGE)),
            "augment": lambda raw, seed: transform(_image(raw), seed.generator(Stream.IMAGE)),
        }
        return stages if self.mix is None else {**stages, "mix": self._train_encode}

    def eval_loaders(self, rank: int, world_size: int) -> dict[str, EvalSet]:
        """The evaluation sets, in batches of a micro-batch for each rank.

        Raises:
            DataError: A set is missing or damaged.
        """
        encode = _EvalEncode(self.eval_transform, self.num_classes)
        sets = {}
        for name in self.eval_names:
            reader = ShardReader(open_shards(self.root / name))
            sets[name] = EvalSet(name, self._loading.evaluation(reader, encode, rank, world_size))
        return sets

    @cached_property
    def _training(self) -> TrainingSet:
        return TrainingSet({"train": self._train}, filters=self._filters, cache=self._cache)

    @property
    def _train_encode(self) -> Callable[[RawSample, SampleSeed], dict[str, Any]]:
        plain = _TrainEncode(self.train_transform, self.num_classes)
        if self.mix is None:
            return plain
        (reader,) = self._training.readers.values()
        return _MixedEncode(plain, self.mix, reader)

    def _require_classes(self, path: Path, classes: list[str]) -> None:
        """An evaluation set that names its classes must number them as the training set does."""
        if not path.exists() or (names := _read_classes(path)) == classes:
            return
        pairs = enumerate(zip(names, classes, strict=False))
        differing = next(
            (f"class {number} is {name!r}, not {own!r}" for number, (name, own) in pairs if name != own), None
        )
        reason = f"it has other classes than the training set: {differing or f'{len(names)}, not {len(classes)}'}"
        mend = f"number its classes as {self._classes_path} does, and write its labels anew"
        raise DataError(reason, where=str(path), mend=mend)


@dataclass(frozen=True)
class _TrainEncode:
    transform: TrainTransform
    num_classes: int

    def __call__(self, raw: RawSample, seed: SampleSeed) -> dict[str, Any]:
        image = self.transform(_image(raw), seed.generator(Stream.IMAGE))
        return {"image": image, "label": _label(raw, self.num_classes), "key": raw["__key__"]}


@dataclass(frozen=True)
class _MixedEncode:
    """Mixes a sample with its partner, as the partner looks in this epoch; only mixed ones read a second sample."""

    plain: _TrainEncode
    mix: Mix
    reader: ShardReader

    def __call__(self, raw: RawSample, seed: SampleSeed) -> dict[str, Any]:
        sample = self.plain(raw, seed)
        mixing = self.mix.draw(seed.generator(Stream.MIX), len(self.reader), self.plain.transform.size)
        if mixing is None:
            return {**sample, "label_b": sample["label"], "mix": 1.0}
        try:
            partner = self.plain(self.reader.read(mixing.partner), seed._replace(sample=mixing.partner))
        except ValueError as error:
            raise ValueError(f"it is mixed with {self.reader.where(mixing.partner)}: {error}") from error
        image = mixing(sample["image"], partner["image"])
        return {**sample, "image": image, "label_b": partner["label"], "mix": mixing.share}


@dataclass(frozen=True)
class _EvalEncode:
    transform: EvalTransform
    num_classes: int

    def __call__(self, raw: RawSample, seed: SampleSeed) -> dict[str, Any]:
        image: UInt8Array = self.transform(_image(raw))
        return {"image": image, "label": _label(raw, self.num_classes), "key": raw["__key__"]}


def _image(raw: RawSample) -> bytes:
    for extension in _IMAGE_EXTENSIONS:
        if extension in raw:
            data: bytes = raw[extension]
            return data
    raise ValueError(f"it has none of the members .{', .'.join(_IMAGE_EXTENSIONS)}")


def _label(raw: RawSample, num_classes: int) -> int:
    label: object
    if "cls" in raw:
        stated = raw["cls"].decode().strip()
        label = int(stated) if stated.isdecimal() else stated
    elif "json" in raw and "label" in (record := json.loads(raw["json"])):
        label = record["label"]
    else:
        raise ValueError("it has neither a member .cls nor a label in .json")
    if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < num_classes:
        raise ValueError(f"its label {label!r} is none of the {num_classes} classes, 0 to {num_classes - 1}")
    return label


def _read_classes(path: Path) -> list[str]:
    try:
        return [str(name) for name in json.loads(path.read_bytes())["classes"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"the names of the classes cannot be read: {type(error).__name__}: {error}"
        mend = 'write {"classes": [a name for each number]}, or set data.num_classes'
        raise DataError(reason, where=str(path), mend=mend) from None
