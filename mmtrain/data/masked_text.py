"""Text for BERT's pre-training: what ``conf/data/masked_text.yaml`` and ``conf/data/wiki_masked.yaml`` instantiate.

A folder of documents holds shards that ``python -m mmtrain data pack text`` wrote: members ``KEY.u16`` or ``KEY.u32``
(token ids) and, for sentence pairs, ``KEY.sentences.u32`` (the tokens up to each sentence's end).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from mmtrain.data.decode.masking import Masking, require_ratio
from mmtrain.data.decode.segments import SegmentRows, require_token, room
from mmtrain.data.decode.text_tokenizer import TextTokenizer
from mmtrain.data.fetch.cache import ShardCache
from mmtrain.data.fetch.reader import ShardReader
from mmtrain.data.loader.loader import EvalLoader, Loader, WorkerKind
from mmtrain.data.loader.samples import OnFault
from mmtrain.data.masked_sequence import MaskedSequence, require_pairs
from mmtrain.data.pack.tokenized_with import require_tokenizer
from mmtrain.data.plan.draw import SampleSeed
from mmtrain.data.plan.order import Shuffle
from mmtrain.data.plan.windows import Windows
from mmtrain.data.sample_loading import EvalSet, SampleLoading
from mmtrain.data.shards.build import open_shards
from mmtrain.data.shards.index import RawSample
from mmtrain.data.sources.text_set import TextSource
from mmtrain.data.training_set import Cache, Order, TrainingSet, TrainTail
from mmtrain.errors import ConfigError


class MaskedText:
    """Masked sequences, or pairs of segments, of documents, for training and evaluation.

    A batch holds ``tokens`` int64 (B, T), corrupted, and filled up with the pad token; ``length`` int64 (B,), the
    tokens before that; ``segment`` int64 (B, T), 1 in the second segment; ``masked_position`` and ``masked_label``
    int64 (B, M), where to predict what, with label -100 in unused places; ``next_sentence`` int64 (B,), 0 where the
    second segment follows the first, 1 where it is of another document, -100 without pairs; ``weight`` float32 (B,)
    with 0 for filler; and ``key``, a list of B strings.

    A document longer than a sequence is several samples of an epoch, in proportion to its length, each of which draws
    its start anew in every epoch, see `Windows`: so that shards serve any sequence length, and no text is favoured for
    standing in a short document. A shorter one is a sequence of its own, without padding to compute on where the model
    unpads.

    Masks and pairs are drawn per seed, epoch and sample in training; in evaluation they are the same in every pass and
    every run.

    Args:
        root: Folder of the data set: ``train/`` and one folder for each evaluation set.
        tokenizer: The one that the documents were packed with.
        sequence_length: Tokens of a sequence, special ones included.
        global_batch_size: Sequences of a step, over all ranks.
        source: Fetches the data set and fills ``root``; None where the shards are there already.
        train: Folder, pattern or URL of the training shards, where they do not lie in ``root/train``; or one for each
            of several data sets, by name, which are mixed.
        weights: Share of the sequences that each of several data sets gives, up to a common factor; None takes their
            numbers of sequences.
        cache: Where remote shards are kept.
        eval: Names of the evaluation sets, folders in ``root``.
        next_sentence: Pairs of segments, half of which follow each other (BERT); or one segment (RoBERTa).
        short_probability: Of a pair that is drawn shorter than the sequence.
        mask_ratio: Part of the tokens that is masked in training.
        eval_mask_ratio: The same in evaluation.
        mask_share: Of the masked tokens, those that become the mask token.
        random_share: Of the masked tokens, those that become any token; the rest stay.
        whole_word: Masks words of several WordPiece tokens whole.
        micro_batch_size: Sequences that are on a device at once; None takes a rank's whole share. Bounds memory, and
            changes no result.
        num_workers: Processes, or threads, that prepare batches, for each rank.
        workers: ``process``, or ``thread``.
        prefetch: Batches prepared ahead, by all workers of a rank together.
        lanes: Parts of the data set that are read side by side.
        window: Samples of a lane that are shuffled together.
        shuffle: One window after another (``block``), or each sample within a window around it (``slide``).
        tail: An epoch's last, short batch is filled with samples of weight 0 (``pad``), left out (``drop``), or goes
            on with the next epoch's first samples (``carry``, the only one for a mixture).
        on_fault: A training sample that cannot be used stops the run (``raise``), or gives its row to another with
            weight 0 and is counted (``skip``). Evaluation always stops.
        seed: Seed of the order and of all draws.

    Raises:
        ConfigError: The sequence has no room for text, or a ratio or probability is out of range.
    """

    def __init__(
        self,
        *,
        root: str | Path,
        tokenizer: TextTokenizer,
        sequence_length: int,
        global_batch_size: int,
        source: TextSource | None = None,
        train: str | Mapping[str, str] | None = None,
        weights: Mapping[str, float] | None = None,
        cache: Cache | None = None,
        eval: Sequence[str] = ("val",),
        next_sentence: bool = True,
        short_probability: float = 0.1,
        mask_ratio: float = 0.15,
        eval_mask_ratio: float = 0.15,
        mask_share: float = 0.8,
        random_share: float = 0.1,
        whole_word: bool = False,
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
        require_ratio(mask_ratio, "mask_ratio")
        require_ratio(eval_mask_ratio, "eval_mask_ratio")
        if not 0 <= short_probability <= 1:
            reason = f"short_probability is {short_probability}, and a probability lies in [0, 1]"
            raise ConfigError(reason, where="data.short_probability", mend="set data.short_probability=0.1, as BERT")
        self._text_length = room(sequence_length, 2 if next_sentence else 1, "sequence_length")
        self.root = Path(root)
        self.source = source
        self.tokenizer = tokenizer
        self.sequence_length = sequence_length
        self.global_batch_size = global_batch_size
        self.micro_batch_size = micro_batch_size
        self.next_sentence = next_sentence
        self.mask_ratio = mask_ratio
        self.eval_mask_ratio = eval_mask_ratio
        self.order = Order(global_batch_size, seed, lanes, window, shuffle, tail)
        self._mask_share = mask_share
        self._random_share = random_share
        self._whole_word = whole_word
        self._short_probability = short_probability
        self._loading = SampleLoading(self.order, micro_batch_size, num_workers, workers, prefetch, on_fault)
        self._train: Mapping[str, str | Path] = (
            dict(train) if isinstance(train, Mapping) else {"train": train or self.root / "train"}
        )
        self._weights = weights
        self._cache = cache or Cache()
        self.eval_names = list(eval)

    def prepare(self) -> None:
        """Fetches what is missing, data and vocabulary. To be called on every node before anything else.

        Raises:
            DataError: Something cannot be fetched, ``root`` holds another data set, or the documents were packed with
                another tokenizer.
            ConfigError: The tokenizer lacks one of BERT's special tokens, or its tokens do not tell words.
        """
        if self.source is not None:
            self.source.prepare(self.root)
        self._masking(self.mask_ratio)
        for reader in self._opened[0].readers.values():
            require_tokenizer(reader.manifest, self.tokenizer)
        for name in self.eval_names:
            require_tokenizer(open_shards(self.root / name), self.tokenizer)

    @property
    def vocab_size(self) -> int:
        """Ids of the tokenizer."""
        return self.tokenizer.vocab_size

    @property
    def fingerprints(self) -> dict[str, str]:
        """sha256 of everything that is read: ``train`` or ``train/<name>``, ``eval/<name>`` and ``tokenizer``."""
        evals = {f"eval/{name}": open_shards(self.root / name).fingerprint for name in self.eval_names}
        return {**self._opened[0].fingerprints, **evals, "tokenizer": self.tokenizer.fingerprint}

    def steps_per_epoch(self) -> int:
        """Global batches of one pass over the training shards."""
        return len(self._opened[0].plan(self.order, rank=0, world_size=1))

    def train_loader(self, rank: int, world_size: int) -> Loader:
        """Training batches of one rank: its whole share of each global batch.

        Raises:
            ConfigError: The ranks, lanes or micro-batches do not divide the global batch.
            DataError: There are to be pairs, and a data set has no sentences or a single document.
        """
        return self._loading.train(self._opened[0], self._train_encodes(), rank, world_size)

    def stages(self) -> dict[str, Callable[[RawSample, SampleSeed], object]]:
        """How a training sample is prepared, for `mmtrain doctor`: each stage does all that comes before it, too."""
        encode = self._train_encodes()[0]
        return {"segments": encode.segments, "mask": encode}

    def eval_loaders(self, rank: int, world_size: int) -> dict[str, EvalSet]:
        """The evaluation sets, in batches of a micro-batch for each rank.

        Raises:
            DataError: A set is missing or damaged, or cannot give pairs.
        """
        return {name: EvalSet(name, self._eval_loader(name, rank, world_size)) for name in self.eval_names}

    @cached_property
    def _opened(self) -> tuple[TrainingSet, list[Windows]]:
        training = TrainingSet(self._train, weights=self._weights, cache=self._cache)
        windowed = [self._windowed(reader) for reader in training.readers.values()]
        training.readers = dict(zip(training.readers, (reader for reader, _ in windowed), strict=True))
        return training, [windows for _, windows in windowed]

    def _train_encodes(self) -> list[MaskedSequence]:
        training, windows = self._opened
        sets = zip(training.readers.values(), windows, strict=True)
        return [self._encode(reader, numbered, self.mask_ratio) for reader, numbered in sets]

    def _eval_loader(self, name: str, rank: int, world_size: int) -> EvalLoader:
        reader, windows = self._windowed(ShardReader(open_shards(self.root / name)))
        encode = self._encode(reader, windows, self.eval_mask_ratio)
        return self._loading.evaluation(reader, encode, rank, world_size)

    def _windowed(self, reader: ShardReader) -> tuple[ShardReader, Windows]:
        """The same documents, as samples of a sequence's length."""
        open_index = None
        if isinstance(reader.store, ShardCache):
            reader.store.fetch_indexes()
            open_index = reader.store.index
        windows = Windows(reader.manifest, self._text_length, open_index)
        return ShardReader(reader.manifest, store=reader.store, select=windows), windows

    def _encode(self, reader: ShardReader, windows: Windows, ratio: float) -> MaskedSequence:
        partners = None
        if self.next_sentence:
            partners = ShardReader(reader.manifest, store=reader.store)
            require_pairs(partners)
        rows = SegmentRows(self.tokenizer, self.sequence_length)
        return MaskedSequence(windows, rows, self._masking(ratio), self._text_length, partners, self._short_probability)

    def _masking(self, ratio: float) -> Masking:
        tokenizer = self.tokenizer
        named = {tokenizer.pad, tokenizer.cls, tokenizer.sep, tokenizer.mask, tokenizer.unk, tokenizer.eos}
        special = np.zeros(tokenizer.vocab_size, bool)
        special[[number for number in named | tokenizer.special_ids if number is not None]] = True
        continuation = None
        if self._whole_word:
            continuation = np.array([token.startswith("##") for token in tokenizer.tokens])
            if not continuation.any():
                reason = f"the tokenizer {tokenizer.name} has no tokens that begin with ##, which tell words"
                raise ConfigError(reason, where="data.whole_word", mend="set data.whole_word=false")
        mask = require_token(tokenizer, "mask", tokenizer.mask)
        return Masking(ratio, mask, special, continuation, self._mask_share, self._random_share)
