"""Rows of tokens packed from documents, for decoder language models: what ``conf/data/packed_text.yaml`` instantiates.

A set of documents is what ``python -m mmtrain data pack text`` writes: shards with members ``KEY.u16`` or ``KEY.u32``
(token ids), the column ``num_tokens`` in their index, and ``dataset.json``, which says what they were tokenised with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from mmtrain.data.decode.text_tokenizer import TextTokenizer
from mmtrain.data.fetch.reader import ShardReader
from mmtrain.data.loader.loader import EvalLoader, Loader, WorkerKind
from mmtrain.data.loader.packed import PackedRows, TokenSource, read_tokens
from mmtrain.data.loader.samples import OnFault
from mmtrain.data.pack.tokenized_with import require_tokenizer
from mmtrain.data.plan.every_token import EveryToken
from mmtrain.data.plan.order import Shuffle
from mmtrain.data.plan.share import require_micro_batch
from mmtrain.data.plan.stream import StreamPlan
from mmtrain.data.shards.build import open_shards
from mmtrain.data.sources.text_set import TOKENIZER, TextSource
from mmtrain.data.training_set import Cache, Order, TrainingSet, token_counts, token_totals
from mmtrain.errors import ConfigError, DataError


@dataclass(frozen=True)
class EvalSet:
    """An evaluation set, opened for one rank.

    Attributes:
        name: Its name, as in ``eval/<name>/loss``.
        loader: Batches as in training; over all ranks, each token of the set but the first is once a label in a row of
            weight 1. Rows with fewer tokens end in ``document`` -1. All ranks get the same number of batches.
        tokens: Tokens that are scored, over all ranks.
        tokenizer: What its texts were tokenised with; ``token_bytes`` tells how many bytes the tokens stand for.
    """

    name: str
    loader: EvalLoader
    tokens: int
    tokenizer: TextTokenizer


class PackedText:
    """Rows of tokens, for training and evaluation of a decoder language model.

    A batch holds, for sequences of T tokens, ``tokens`` int64 (B, T + 1): the inputs are all but the last, the labels
    all but the first; ``position`` int32 (B, T + 1), from 0 in each part of a document; ``document`` int32 (B, T + 1),
    the number of that part in its row, or -1 where there is no token; ``weight`` float32 (B,) with 0 for filler; and
    ``key``, for each row the keys of its documents.

    Training has no epoch's end: rows go on from one pass over the documents to the next, and no token is lost.

    Args:
        root: Folder of the data set: ``train/``, one folder for each evaluation set, and ``tokenizer/``.
        sequence_length: Tokens that the model reads of a row.
        global_batch_size: Rows of a step, over all ranks.
        tokenizer: What the documents were tokenised with; None for the one in ``root/tokenizer``.
        source: Fetches the data set and fills ``root``; None where the shards are there already.
        train: Folder, pattern or URL of the training shards, where they do not lie in ``root/train``; or one for each
            of several data sets, by name, which are mixed.
        weights: Share of the rows that each of several data sets gives, up to a common factor; None takes their numbers
            of tokens.
        cache: Where remote shards are kept.
        eval: Names of the evaluation sets, folders in ``root``.
        packing: Rows that are packed together. 1 cuts the documents, end to end, into rows; 64 packs by best fit, which
            cuts fewer of them.
        micro_batch_size: Rows that are on a device at once; None takes a rank's whole share. Bounds memory, and changes
            no result.
        num_workers: Processes, or threads, that prepare batches, for each rank.
        workers: ``process``, or ``thread``.
        prefetch: Batches prepared ahead, by all workers of a rank together.
        lanes: Parts of the data set that are read side by side.
        window: Documents of a lane that are shuffled together.
        shuffle: One window after another (``block``), or not at all (``none``).
        on_fault: A training document that cannot be read stops the run (``raise``), or leaves its place in the row
            empty and is counted (``skip``). Evaluation always stops.
        seed: Seed of the order.

    Raises:
        ConfigError: A setting is out of range.
    """

    def __init__(
        self,
        *,
        root: str | Path,
        sequence_length: int,
        global_batch_size: int,
        tokenizer: TextTokenizer | None = None,
        source: TextSource | None = None,
        train: str | Mapping[str, str] | None = None,
        weights: Mapping[str, float] | None = None,
        cache: Cache | None = None,
        eval: Sequence[str] = ("val",),
        packing: int = 1,
        micro_batch_size: int | None = None,
        num_workers: int = 1,
        workers: WorkerKind = "process",
        prefetch: int = 4,
        lanes: int = 8,
        window: int = 4096,
        shuffle: Shuffle = "block",
        on_fault: OnFault = "raise",
        seed: int = 0,
    ) -> None:
        for name, number in (("sequence_length", sequence_length), ("packing", packing)):
            if number < 1:
                raise ConfigError(f"data.{name} is {number}", where=f"data.{name}", mend="set 1 or more")
        self.root = Path(root)
        self.source = source
        self.sequence_length = sequence_length
        self.tokenizer = tokenizer or TextTokenizer(self.root / TOKENIZER)
        self.global_batch_size = global_batch_size
        self.micro_batch_size = micro_batch_size
        self.packing = packing
        self.num_workers = num_workers
        self.workers = workers
        self.prefetch = prefetch
        self.order = Order(global_batch_size, seed, lanes, window, shuffle, "carry")
        self.on_fault = on_fault
        self.eval_names = list(eval)
        self._train: Mapping[str, str | Path] = (
            dict(train) if isinstance(train, Mapping) else {"train": train or self.root / "train"}
        )
        self._weights = weights
        self._cache = cache or Cache()

    def prepare(self) -> None:
        """Fetches what is missing. To be called on every node before anything else.

        Raises:
            ConfigError: There is no such tokenizer.
            DataError: Something cannot be fetched, ``root`` holds another data set, or documents were tokenised
                otherwise.
        """
        if self.source is not None:
            self.source.prepare(self.root)
        self.tokenizer.load()
        for reader in self._training.readers.values():
            require_tokenizer(reader.manifest, self.tokenizer)
        for name in self.eval_names:
            require_tokenizer(open_shards(self.root / name), self.tokenizer)

    @property
    def vocab_size(self) -> int:
        """One more than the tokenizer's largest id."""
        return self.tokenizer.vocab_size

    @property
    def tokens_per_sample(self) -> int:
        """Tokens of a row that are learned from: what a budget of tokens counts."""
        return self.sequence_length

    @property
    def fingerprints(self) -> dict[str, str]:
        """sha256 of everything that is read: ``train`` or ``train/<name>``, ``eval/<name>`` and ``tokenizer``."""
        evals = {f"eval/{name}": open_shards(self.root / name).fingerprint for name in self.eval_names}
        return {**self._training.fingerprints, **evals, "tokenizer": self.tokenizer.fingerprint}

    def steps_per_epoch(self) -> int:
        """Global batches of about one pass over the training documents."""
        return len(self._plan(rank=0, world_size=1))

    def train_loader(self, rank: int, world_size: int) -> Loader:
        """Training batches of one rank: its whole share of each global batch.

        Raises:
            ConfigError: The ranks, lanes or micro-batches do not divide the global batch.
            DataError: The documents have no tokens, or they were not counted.
        """
        require_micro_batch(self.global_batch_size, world_size, self.micro_batch_size)
        sources = [TokenSource(reader, read_tokens) for reader in self._training.readers.values()]
        plan = self._plan(rank, world_size)
        return Loader(
            PackedRows(sources, row_length=self.sequence_length + 1, on_fault=self.on_fault),
            plan,
            num_workers=self.num_workers,
            workers=self.workers,
            prefetch=self.prefetch,
            pin_memory=torch.cuda.is_available(),
            lookahead=self._training.lookahead(plan),
        )

    def eval_loaders(self, rank: int, world_size: int) -> dict[str, EvalSet]:
        """The evaluation sets, in batches of a micro-batch for each rank.

        Raises:
            DataError: A set is missing or damaged, or shorter than one row.
        """
        return {name: self._eval_set(name, rank, world_size) for name in self.eval_names}

    @cached_property
    def _training(self) -> TrainingSet:
        return TrainingSet(self._train, weights=self._weights, cache=self._cache)

    def _plan(self, rank: int, world_size: int) -> StreamPlan:
        length = self.sequence_length + 1
        return self._training.packed_plan(self.order, rank, world_size, row_length=length, rows=self.packing)

    def _eval_set(self, name: str, rank: int, world_size: int) -> EvalSet:
        reader = ShardReader(open_shards(self.root / name))
        totals = token_totals(reader.manifest, name)
        lengths = np.concatenate([token_counts(reader, shard) for shard in range(len(totals))])
        rows = -(-(sum(totals) - 1) // self.sequence_length)
        share = self.micro_batch_size or self.global_batch_size // world_size
        share = max(1, min(share, -(-rows // world_size)))  # a small set needs no large filler
        try:
            plan = EveryToken(
                lengths,
                sequence_length=self.sequence_length,
                global_batch_size=share * world_size,
                rank=rank,
                world_size=world_size,
            )
        except DataError as error:
            raise DataError(error.message, where=str(self.root / name), mend=error.mend) from None
        loader = EvalLoader(
            PackedRows([TokenSource(reader, read_tokens)], row_length=self.sequence_length + 1),
            plan,
            num_workers=self.num_workers,
            workers=self.workers,
            prefetch=self.prefetch,
            pin_memory=torch.cuda.is_available(),
        )
        return EvalSet(name, loader, plan.tokens, self.tokenizer)
