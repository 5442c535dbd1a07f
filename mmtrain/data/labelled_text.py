"""Texts with a label: what ``conf/data/labelled_text.yaml``, ``reviews.yaml`` and ``glue_*.yaml`` instantiate.

A folder of labelled texts holds shards with one member ``KEY.json``, see `mmtrain.data.sources.labelled`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mmtrain.data.decode.segments import SegmentRows, room
from mmtrain.data.decode.sentence_pair import longest_first
from mmtrain.data.decode.text_tokenizer import TextTokenizer
from mmtrain.data.fetch.reader import ShardReader
from mmtrain.data.loader.loader import Loader, WorkerKind
from mmtrain.data.loader.samples import OnFault
from mmtrain.data.plan.draw import SampleSeed
from mmtrain.data.plan.order import Shuffle
from mmtrain.data.sample_loading import EvalSet, SampleLoading
from mmtrain.data.shards.build import open_shards
from mmtrain.data.shards.index import RawSample
from mmtrain.data.sources.labelled import LabelledTextSource
from mmtrain.data.training_set import Cache, Order, TrainingSet, TrainTail
from mmtrain.errors import ConfigError, did_you_mean


class LabelledText:
    """Texts, or pairs of them, and their classes or numbers, for training and evaluation.

    A batch holds ``tokens`` int64 (B, T), ``[CLS] A [SEP]`` or ``[CLS] A [SEP] B [SEP]`` and then the pad token;
    ``length`` int64 (B,), the tokens before that; ``segment`` int64 (B, T), 1 in B; ``label``, int64 (B,), or float32
    where it is a number to be predicted; ``weight`` float32 (B,) with 0 for filler; and ``key``, a list of B strings.
    Of a pair that is too long, tokens are taken off the end of the longer text.

    Args:
        root: Folder of the data set: ``train/`` and one folder for each evaluation set.
        tokenizer: The model's.
        max_length: T, tokens of a row, special ones included.
        global_batch_size: Samples of a step, over all ranks.
        source: Fetches or reads the data set and fills ``root``; None where the shards are there already.
        classes: Names of the classes, in the order of their numbers; None takes the source's, and where that has none
            labels are numbers to be predicted.
        eval: Names of the evaluation sets, folders in ``root``; None takes the source's.
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
        on_fault: A training sample that cannot be used stops the run (``raise``), or gives its row to another with
            weight 0 and is counted (``skip``). Evaluation always stops.
        seed: Seed of the order.

    Raises:
        ConfigError: A row has no room for a pair of texts, or there are classes but not two.
    """

    def __init__(
        self,
        *,
        root: str | Path,
        tokenizer: TextTokenizer,
        max_length: int,
        global_batch_size: int,
        source: LabelledTextSource | None = None,
        classes: Sequence[str] | None = None,
        eval: Sequence[str] | None = None,
        micro_batch_size: int | None = None,
        num_workers: int = 1,
        workers: WorkerKind = "process",
        prefetch: int = 4,
        lanes: int = 8,
        window: int = 4096,
        shuffle: Shuffle = "block",
        tail: TrainTail = "pad",
        on_fault: OnFault = "raise",
        seed: int = 0,
    ) -> None:
        room(max_length, 2, "max_length")
        names = classes if classes is not None else source.classes if source is not None else None
        if names is not None and len(set(names)) < max(2, len(names)):
            mend = "name two or more, each once; or none, for numbers"
            raise ConfigError(f"{list(names)} are no classes", where="data.classes", mend=mend)
        self.root = Path(root)
        self.source = source
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.classes = None if names is None else tuple(names)
        self.global_batch_size = global_batch_size
        self.micro_batch_size = micro_batch_size
        self.order = Order(global_batch_size, seed, lanes, window, shuffle, tail)
        self._loading = SampleLoading(self.order, micro_batch_size, num_workers, workers, prefetch, on_fault)
        self.eval_names = list(eval if eval is not None else source.eval_sets if source is not None else ())

    def prepare(self) -> None:
        """Fetches what is missing, data and vocabulary. To be called on every node before anything else.

        Raises:
            DataError: Something cannot be fetched or read, or ``root`` holds another data set.
            ConfigError: The tokenizer lacks one of BERT's special tokens.
        """
        if self.source is not None:
            self.source.prepare(self.root)
        SegmentRows(self.tokenizer, self.max_length)

    @property
    def num_classes(self) -> int | None:
        """Number of classes; None where labels are numbers."""
        return None if self.classes is None else len(self.classes)

    @property
    def vocab_size(self) -> int:
        """Ids of the tokenizer."""
        return self.tokenizer.vocab_size

    @property
    def fingerprints(self) -> dict[str, str]:
        """sha256 of everything that is read: ``train``, ``eval/<name>`` and ``tokenizer``."""
        evals = {f"eval/{name}": open_shards(self.root / name).fingerprint for name in self.eval_names}
        return {**self._training.fingerprints, **evals, "tokenizer": self.tokenizer.fingerprint}

    def steps_per_epoch(self) -> int:
        """Global batches of one pass over the training shards."""
        return len(self._training.plan(self.order, rank=0, world_size=1))

    def train_loader(self, rank: int, world_size: int) -> Loader:
        """Training batches of one rank: its whole share of each global batch.

        Raises:
            ConfigError: The ranks, lanes or micro-batches do not divide the global batch.
        """
        return self._loading.train(self._training, [self._encode()], rank, world_size)

    def stages(self) -> dict[str, Callable[[RawSample, SampleSeed], object]]:
        """How a training sample is prepared, for `mmtrain doctor`."""
        return {"tokenize": self._encode()}

    def eval_loaders(self, rank: int, world_size: int) -> dict[str, EvalSet]:
        """The evaluation sets, in batches of a micro-batch for each rank.

        Raises:
            DataError: A set is missing or damaged.
        """
        sets = {}
        for name in self.eval_names:
            reader = ShardReader(open_shards(self.root / name))
            sets[name] = EvalSet(name, self._loading.evaluation(reader, self._encode(), rank, world_size))
        return sets

    @cached_property
    def _training(self) -> TrainingSet:
        return TrainingSet({"train": self.root / "train"}, cache=Cache())

    def _encode(self) -> _Encode:
        numbers = None if self.classes is None else {name: number for number, name in enumerate(self.classes)}
        return _Encode(self.tokenizer, SegmentRows(self.tokenizer, self.max_length), numbers)


@dataclass(frozen=True, eq=False)
class _Encode:
    tokenizer: TextTokenizer
    rows: SegmentRows
    numbers: Mapping[str, int] | None

    def __call__(self, raw: RawSample, seed: SampleSeed) -> dict[str, Any]:
        record = json.loads(raw["json"]) if "json" in raw else None
        if not isinstance(record, dict) or not {"text", "label"} <= record.keys():
            raise ValueError('it has no member .json of the form {"text": ..., "label": ...}')
        a = self._ids(record["text"])
        if "text_b" in record:
            b = self._ids(record["text_b"])
            kept_a, kept_b = longest_first(len(a), len(b), self.rows.row_length - 3)
            row = self.rows(a[:kept_a], b[:kept_b])
        else:
            row = self.rows(a[: self.rows.row_length - 2])
        label = self._label(record["label"])
        return {**row._asdict(), "label": label, "key": raw["__key__"]}

    def _ids(self, text: object) -> list[int]:
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"its text is {text!r}")
        return self.tokenizer.encode(text)

    def _label(self, label: object) -> int | float:
        if self.numbers is None:
            if isinstance(label, bool) or not isinstance(label, int | float):
                raise ValueError(f"its label is {label!r}, not a number, and there are no classes")
            return float(label)
        if str(label) not in self.numbers:
            raise ValueError(f"its label {label!r} is none of the classes: {did_you_mean(str(label), self.numbers)}")
        return self.numbers[str(label)]
