"""Image-text pairs: what ``conf/data/emoji.yaml`` and ``conf/data/image_text.yaml`` instantiate.

A folder of pairs holds shards with members ``KEY.png`` (or ``.jpg``, ``.jpeg``, ``.webp``), ``KEY.txt`` (the caption;
of an image with several, one a line) and, where there are labels, ``KEY.json`` (``{"label": int, ...}``), and their
``manifest.json``. Captions may also stand in ``KEY.json``, as ``{"captions": [...]}``. A zero-shot set needs none, and
holds ``classes.json``: ``{"classes": [a caption for each label], "categories": [a number for each], "category_names":
[...]}``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from mmtrain.data.decode.transform import EvalTransform, TrainTransform
from mmtrain.data.fetch.reader import ShardReader
from mmtrain.data.loader.loader import EvalLoader, Loader, WorkerKind
from mmtrain.data.loader.samples import OnFault
from mmtrain.data.plan.draw import SampleSeed, Stream
from mmtrain.data.plan.order import Shuffle
from mmtrain.data.sample_loading import SampleLoading
from mmtrain.data.shards.build import open_shards
from mmtrain.data.shards.index import RawSample
from mmtrain.data.sources import EvalSpec, Source
from mmtrain.data.training_set import Cache, Order, TrainingSet, TrainTail
from mmtrain.errors import ConfigError, DataError

_IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")


class Tokenizer(Protocol):
    """What this data set asks of a tokenizer."""

    @property
    def fingerprint(self) -> str: ...

    def load(self) -> object:
        """Fetches the vocabulary, unless that was done before."""

    def __call__(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Token ids ``(len(texts), context_length)``, padded with 0 after the end token."""


@dataclass(frozen=True)
class EvalSet:
    """An evaluation set, opened for one rank.

    Attributes:
        name: Its name, as in ``eval/<name>/top1``.
        task: What is measured on it.
        loader: Batches as in training, but for ``captions`` in place of ``text``: a list of texts for each image, of a
            zero-shot set the class's. All ranks get the same number, and in each step the rows that follow the ones of
            the rank before.
        classes: Captions of the labels of a zero-shot set.
        categories: Name of each class's category, of a zero-shot set that has categories.
        tokenizer: The data set's tokenizer.
        templates: The data set's prompts.
    """

    name: str
    task: Literal["zeroshot", "retrieval"]
    loader: EvalLoader
    classes: list[str] | None
    categories: list[str] | None
    tokenizer: Tokenizer
    templates: Sequence[str]

    def tokenize(self, captions: Sequence[str]) -> torch.Tensor:
        """Token ids of captions as they are, int64 ``(captions, context_length)``."""
        return torch.from_numpy(self.tokenizer(captions))

    def prompts(self) -> torch.Tensor:
        """Token ids of every class in every template, int64 ``(classes, templates, context_length)``."""
        assert self.classes is not None, "only a zero-shot set has classes"
        texts = [template.replace("{}", caption) for caption in self.classes for template in self.templates]
        return self.tokenize(texts).view(len(self.classes), len(self.templates), -1)


class ImageText:
    """Pairs of images and captions, for training and evaluation.

    A batch holds ``image`` uint8 (B, 3, H, W), ``text`` int64 (B, T), ``label`` int64 (B,) with -1 where there is none,
    ``weight`` float32 (B,) with 0 for filler, and ``key``, a list of B strings. Of an image's captions one is drawn.

    Args:
        root: Folder of the data set: ``train/`` and one folder for each evaluation set.
        tokenizer: Turns captions into token ids.
        train_transform: Augmentation of the training images.
        eval_transform: View of the evaluation images.
        global_batch_size: Samples of a step, over all ranks.
        source: Fetches the data set and fills ``root``; None where the shards are there already.
        train: Folder, pattern or URL of the training shards, where they do not lie in ``root/train``; or one for each
            of several data sets, by name, which are mixed.
        weights: Share of the samples that each of several data sets gives, up to a common factor; None takes their
            numbers of samples.
        filters: Predicates on the columns of the index, such as ``width >= 200``: only samples that pass are trained
            on.
        cache: Where remote shards are kept.
        eval: Task of each evaluation set, ``zeroshot`` or ``retrieval``, by the name of its folder in ``root``; None
            takes the source's.
        micro_batch_size: Samples that are on a device at once; None takes a rank's whole share. Bounds memory, and
            changes no result.
        num_workers: Processes, or threads, that prepare batches, for each rank.
        workers: ``process``, or ``thread``.
        prefetch: Batches prepared ahead, by all workers of a rank together.
        templates: Prompts with one ``{}`` for the caption; each training sample draws one, zero-shot classification
            takes them all.
        lanes: Parts of the data set that are read side by side.
        window: Samples of a lane that are shuffled together.
        shuffle: One window after another (``block``), or each sample within a window around it (``slide``).
        tail: An epoch's last, short batch is filled with samples of weight 0 (``pad``), left out (``drop``), or goes
            on with the next epoch's first samples (``carry``, the only one for a mixture).
        on_fault: A training sample that cannot be read or decoded stops the run (``raise``), or gives its row to
            another with weight 0 and is counted (``skip``). Evaluation always stops.
        seed: Seed of the order and of all draws.

    Raises:
        ConfigError: A setting is out of range.
    """

    def __init__(
        self,
        *,
        root: str | Path,
        tokenizer: Tokenizer,
        train_transform: TrainTransform,
        eval_transform: EvalTransform,
        global_batch_size: int,
        source: Source | None = None,
        train: str | Mapping[str, str] | None = None,
        weights: Mapping[str, float] | None = None,
        filters: Sequence[str] = (),
        cache: Cache | None = None,
        eval: Mapping[str, Literal["zeroshot", "retrieval"]] | None = None,
        micro_batch_size: int | None = None,
        num_workers: int = 2,
        workers: WorkerKind = "process",
        prefetch: int = 4,
        templates: Sequence[str] = ("{}",),
        lanes: int = 8,
        window: int = 4096,
        shuffle: Shuffle = "block",
        tail: TrainTail = "pad",
        on_fault: OnFault = "raise",
        seed: int = 0,
    ) -> None:
        for template in templates:
            if template.count("{}") != 1:
                mend = 'write {} once, where the caption goes: "a picture of {}"'
                raise ConfigError(f"the template {template!r} has no single {{}}", where="data.templates", mend=mend)
        if not templates:
            raise ConfigError("there is no template", where="data.templates", mend='set ["{}"] for bare captions')
        self.root = Path(root)
        self.source = source
        self.tokenizer = tokenizer
        self.train_transform = train_transform
        self.eval_transform = eval_transform
        self.global_batch_size = global_batch_size
        self.micro_batch_size = micro_batch_size
        self.templates = list(templates)
        self.order = Order(global_batch_size, seed, lanes, window, shuffle, tail)
        self._loading = SampleLoading(self.order, micro_batch_size, num_workers, workers, prefetch, on_fault)
        self._train: Mapping[str, str | Path] = (
            dict(train) if isinstance(train, Mapping) else {"train": train or self.root / "train"}
        )
        self._weights = weights
        self._filters = list(filters)
        self._cache = cache or Cache()
        if eval is not None:
            self.eval_specs = [EvalSpec(name, task) for name, task in eval.items()]
        else:
            self.eval_specs = list(source.eval_sets.values()) if source is not None else []

    def prepare(self) -> None:
        """Fetches what is missing, data and vocabulary. To be called on every node before anything else.

        Raises:
            DataError: Something cannot be fetched, or ``root`` holds another data set.
        """
        if self.source is not None:
            self.source.prepare(self.root)
        self.tokenizer.load()

    @property
    def fingerprints(self) -> dict[str, str]:
        """sha256 of everything that is read: ``train`` or ``train/<name>``, ``eval/<name>`` and ``tokenizer``."""
        evals = {f"eval/{spec.name}": open_shards(self.root / spec.name).fingerprint for spec in self.eval_specs}
        return {**self._training.fingerprints, **evals, "tokenizer": self.tokenizer.fingerprint}

    def steps_per_epoch(self) -> int:
        """Global batches of one pass over the training shards."""
        return len(self._training.plan(self.order, rank=0, world_size=1))

    def train_loader(self, rank: int, world_size: int) -> Loader:
        """Training batches of one rank: its whole share of each global batch.

        Raises:
            ConfigError: The ranks, lanes or micro-batches do not divide the global batch.
        """
        encode = _TrainEncode(self.train_transform, self.tokenizer, tuple(self.templates))
        return self._loading.train(self._training, [encode] * len(self._training.readers), rank, world_size)

    def stages(self) -> dict[str, Callable[[RawSample, SampleSeed], object]]:
        """How a training sample is prepared, for `mmtrain doctor`: each stage does all that comes before it, too."""
        transform = self.train_transform
        return {
            "decode": lambda raw, seed: transform.decode(_image(raw), seed.generator(Stream.IMAGE)),
            "augment": lambda raw, seed: transform(_image(raw), seed.generator(Stream.IMAGE)),
            "tokenize": _TrainEncode(transform, self.tokenizer, tuple(self.templates)),
        }

    def eval_loaders(self, rank: int, world_size: int) -> dict[str, EvalSet]:
        """The evaluation sets, in batches of a micro-batch for each rank.

        Raises:
            DataError: A set, or a zero-shot set's ``classes.json``, is missing or damaged.
        """
        return {spec.name: self._eval_set(spec, rank, world_size) for spec in self.eval_specs}

    @cached_property
    def _training(self) -> TrainingSet:
        return TrainingSet(self._train, weights=self._weights, filters=self._filters, cache=self._cache)

    def _eval_set(self, spec: EvalSpec, rank: int, world_size: int) -> EvalSet:
        folder = self.root / spec.name
        classes, categories = _read_classes(folder / "classes.json") if spec.task == "zeroshot" else (None, None)
        reader, encode = ShardReader(open_shards(folder)), _EvalEncode(self.eval_transform, classes)
        loader = self._loading.evaluation(reader, encode, rank, world_size)
        return EvalSet(spec.name, spec.task, loader, classes, categories, self.tokenizer, self.templates)


@dataclass(frozen=True)
class _TrainEncode:
    transform: TrainTransform
    tokenizer: Tokenizer
    templates: tuple[str, ...]

    def __call__(self, raw: RawSample, seed: SampleSeed) -> dict[str, Any]:
        image = self.transform(_image(raw), seed.generator(Stream.IMAGE))
        draws = seed.generator(Stream.TEXT)
        template = self.templates[int(draws.random() * len(self.templates))]
        record = _record(raw)
        captions = _captions(raw, record)
        caption = captions[int(draws.random() * len(captions))]
        text = self.tokenizer([template.replace("{}", caption)])[0]
        return {"image": image, "text": text, "label": _label(record), "key": raw["__key__"]}


@dataclass(frozen=True)
class _EvalEncode:
    transform: EvalTransform
    classes: list[str] | None  # of a zero-shot set

    def __call__(self, raw: RawSample, seed: SampleSeed) -> dict[str, Any]:
        image, record = self.transform(_image(raw)), _record(raw)
        label = _label(record)
        if self.classes is None:
            captions = _captions(raw, record)
        elif 0 <= label < len(self.classes):
            captions = [self.classes[label]]
        else:
            raise ValueError(f"its label {label} is none of the {len(self.classes)} of classes.json")
        return {"image": image, "captions": captions, "label": label, "key": raw["__key__"]}


def _image(raw: RawSample) -> bytes:
    for extension in _IMAGE_EXTENSIONS:
        if extension in raw:
            data: bytes = raw[extension]
            return data
    raise ValueError(f"it has none of the members .{', .'.join(_IMAGE_EXTENSIONS)}")


def _record(raw: RawSample) -> dict[str, Any]:
    record = json.loads(raw.get("json", b"{}"))
    if not isinstance(record, dict):
        raise ValueError(f"its member .json holds no object: {record!r:.40}")
    return record


def _captions(raw: RawSample, record: Mapping[str, Any]) -> list[str]:
    if "captions" in record:
        captions = record["captions"]
        if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
            raise ValueError(f"its captions are no list of texts: {captions!r:.40}")
    elif "txt" in raw:
        captions = raw["txt"].decode().splitlines()
    else:
        raise ValueError("it has no member .txt, and no captions in .json")
    if said := [caption.strip() for caption in captions if caption.strip()]:
        return said
    raise ValueError("its caption is empty")


def _label(record: Mapping[str, Any]) -> int:
    return int(record.get("label", -1))


def _read_classes(path: Path) -> tuple[list[str], list[str] | None]:
    """Captions of the classes, and the name of each one's category."""
    try:
        content = json.loads(path.read_bytes())
        classes = [str(caption) for caption in content["classes"]]
        if "categories" not in content:
            return classes, None
        categories = [str(content["category_names"][number]) for number in content["categories"]]
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        reason = f"the classes of a zero-shot set cannot be read: {type(error).__name__}: {error}"
        mend = (
            'write {"classes": [...], "categories": [...], "category_names": [...]}, or evaluate it by task: retrieval'
        )
        raise DataError(reason, where=str(path), mend=mend) from None
    if len(categories) != len(classes):
        reason = f"{len(classes)} classes have {len(categories)} categories"
        raise DataError(reason, where=str(path), mend="give each class one category")
    return classes, categories
