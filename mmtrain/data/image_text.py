"""Image-text pairs: what ``conf/data/emoji.yaml`` and ``conf/data/image_text.yaml`` instantiate.

A folder of pairs holds shards with members ``KEY.png`` (or ``.jpg``, ``.jpeg``, ``.webp``), ``KEY.txt`` (the caption)
and, where there are labels, ``KEY.json`` (``{"label": int, ...}``), and their ``manifest.json``. A zero-shot set also
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

from mmtrain.data.decode.codec import UInt8Array
from mmtrain.data.decode.transform import EvalTransform, TrainTransform
from mmtrain.data.fetch.reader import ShardReader
from mmtrain.data.loader.loader import EvalLoader, Loader, WorkerKind
from mmtrain.data.loader.samples import OnFault, Samples, SampleSource
from mmtrain.data.plan.draw import SampleSeed, Stream
from mmtrain.data.plan.epoch import EpochPlan
from mmtrain.data.plan.order import Shuffle
from mmtrain.data.plan.share import nearest_divisor, require_divisible
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
        loader: Batches as in training, with the captions as they are and ``caption``, their texts; all ranks get the
            same number.
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

    def prompts(self) -> torch.Tensor:
        """Token ids of every class in every template, int64 ``(classes, templates, context_length)``."""
        assert self.classes is not None, "only a zero-shot set has classes"
        texts = [template.replace("{}", caption) for caption in self.classes for template in self.templates]
        return torch.from_numpy(self.tokenizer(texts)).view(len(self.classes), len(self.templates), -1)


class ImageText:
    """Pairs of images and captions, for training and evaluation.

    A batch holds ``image`` uint8 (B, 3, H, W), ``text`` int64 (B, T), ``label`` int64 (B,) with -1 where there is none,
    ``weight`` float32 (B,) with 0 for filler, and ``key``, a list of B strings.

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
        self.num_workers = num_workers
        self.workers = workers
        self.prefetch = prefetch
        self.templates = list(templates)
        self.order = Order(global_batch_size, seed, lanes, window, shuffle, tail)
        self.on_fault = on_fault
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
        self._check_micro_batch(world_size)
        encode = _TrainEncode(self.train_transform, self.tokenizer, tuple(self.templates))
        sources = [SampleSource(reader, encode) for reader in self._training.readers.values()]
        plan = self._training.plan(self.order, rank, world_size)
        return Loader(
            Samples(sources, seed=self.order.seed, on_fault=self.on_fault),
            plan,
            num_workers=self.num_workers,
            workers=self.workers,
            prefetch=self.prefetch,
            pin_memory=torch.cuda.is_available(),
            lookahead=self._training.lookahead(plan),
        )

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

    def _check_micro_batch(self, world_size: int) -> None:
        require_divisible(self.global_batch_size, "the number of ranks", world_size)
        share = self.global_batch_size // world_size
        if self.micro_batch_size is not None and (self.micro_batch_size < 1 or share % self.micro_batch_size):
            raise ConfigError(
                f"micro-batches of {self.micro_batch_size} do not divide a rank's share of {share} samples",
                where="data.micro_batch_size",
                mend=f"set data.micro_batch_size={nearest_divisor(share, self.micro_batch_size)}",
            )

    def _eval_set(self, spec: EvalSpec, rank: int, world_size: int) -> EvalSet:
        folder = self.root / spec.name
        manifest = open_shards(folder)
        share = self.micro_batch_size or self.global_batch_size // world_size
        share = min(share, -(-manifest.samples // world_size))  # a small set needs no large filler
        plan = EpochPlan(
            manifest.sizes,
            global_batch_size=share * world_size,
            rank=rank,
            world_size=world_size,
            lanes=1,
            shuffle="none",
        )
        classes, categories = _read_classes(folder / "classes.json") if spec.task == "zeroshot" else (None, None)
        encode = _EvalEncode(self.eval_transform, self.tokenizer, len(classes) if classes is not None else None)
        loader = EvalLoader(
            Samples([SampleSource(ShardReader(manifest), encode)], seed=self.order.seed),
            plan,
            num_workers=self.num_workers,
            workers=self.workers,
            prefetch=self.prefetch,
            pin_memory=torch.cuda.is_available(),
        )
        return EvalSet(spec.name, spec.task, loader, classes, categories, self.tokenizer, self.templates)


@dataclass(frozen=True)
class _TrainEncode:
    transform: TrainTransform
    tokenizer: Tokenizer
    templates: tuple[str, ...]

    def __call__(self, raw: RawSample, seed: SampleSeed) -> dict[str, Any]:
        image = self.transform(_image(raw), seed.generator(Stream.IMAGE))
        draw = seed.generator(Stream.TEXT).random()
        template = self.templates[int(draw * len(self.templates))]
        return _sample(raw, image, self.tokenizer, template.replace("{}", _caption(raw)))


@dataclass(frozen=True)
class _EvalEncode:
    transform: EvalTransform
    tokenizer: Tokenizer
    num_classes: int | None  # of a zero-shot set

    def __call__(self, raw: RawSample, seed: SampleSeed) -> dict[str, Any]:
        caption = _caption(raw)
        sample = _sample(raw, self.transform(_image(raw)), self.tokenizer, caption)
        if self.num_classes is not None and not 0 <= sample["label"] < self.num_classes:
            raise ValueError(f"its label {sample['label']} is none of the {self.num_classes} of classes.json")
        return {**sample, "caption": caption}


def _sample(raw: RawSample, image: UInt8Array, tokenizer: Tokenizer, text: str) -> dict[str, Any]:
    return {"image": image, "text": tokenizer([text])[0], "label": _label(raw), "key": raw["__key__"]}


def _image(raw: RawSample) -> bytes:
    for extension in _IMAGE_EXTENSIONS:
        if extension in raw:
            data: bytes = raw[extension]
            return data
    raise ValueError(f"it has none of the members .{', .'.join(_IMAGE_EXTENSIONS)}")


def _caption(raw: RawSample) -> str:
    if "txt" not in raw:
        raise ValueError("it has no member .txt")
    text: bytes = raw["txt"]
    return text.decode()


def _label(raw: RawSample) -> int:
    return int(json.loads(raw["json"]).get("label", -1)) if "json" in raw else -1


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
