"""Loaders of samples, as data nodes build them: whole shares for training, an ordered pass for evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mmtrain.data.fetch.reader import ShardReader
from mmtrain.data.loader.loader import EvalLoader, Loader, WorkerKind
from mmtrain.data.loader.samples import Encode, OnFault, Samples, SampleSource
from mmtrain.data.plan.epoch import EpochPlan
from mmtrain.data.plan.share import require_micro_batch
from mmtrain.data.training_set import Order, TrainingSet

EVAL_SEED = 0


@dataclass(frozen=True)
class EvalSet:
    """An evaluation set, opened for one rank.

    Attributes:
        name: Its name, as in ``eval/<name>/accuracy``.
        loader: Batches as in training; all ranks get the same number.
    """

    name: str
    loader: EvalLoader


@dataclass(frozen=True)
class SampleLoading:
    """How samples become batches.

    Attributes:
        order: How training goes through them.
        micro_batch_size: Samples that are on a device at once; None takes a rank's whole share.
        num_workers: Processes, or threads, that prepare batches, for each rank.
        workers: ``process``, or ``thread``.
        prefetch: Batches prepared ahead, by all workers of a rank together.
        on_fault: What becomes of a training sample that cannot be used.
    """

    order: Order
    micro_batch_size: int | None
    num_workers: int
    workers: WorkerKind
    prefetch: int
    on_fault: OnFault

    def train(self, training: TrainingSet, encodes: Sequence[Encode], rank: int, world_size: int) -> Loader:
        """Training batches of one rank: its whole share of each global batch.

        Args:
            training: The data sets.
            encodes: What prepares the samples of each.
            rank: This rank.
            world_size: Number of ranks.

        Raises:
            ConfigError: The ranks, lanes or micro-batches do not divide the global batch.
        """
        require_micro_batch(self.order.global_batch_size, world_size, self.micro_batch_size)
        plan = training.plan(self.order, rank, world_size)
        sources = [SampleSource(*source) for source in zip(training.readers.values(), encodes, strict=True)]
        return Loader(
            Samples(sources, seed=self.order.seed, on_fault=self.on_fault),
            plan,
            num_workers=self.num_workers,
            workers=self.workers,
            prefetch=self.prefetch,
            pin_memory=torch.cuda.is_available(),
            lookahead=training.lookahead(plan),
        )

    def evaluation(self, reader: ShardReader, encode: Encode, rank: int, world_size: int) -> EvalLoader:
        """Batches of a micro-batch for each rank, each sample once; draws are the same in every run and pass."""
        samples = len(reader)
        share = self.micro_batch_size or self.order.global_batch_size // world_size
        share = min(share, -(-samples // world_size))  # a small set needs no large filler
        plan = EpochPlan(
            reader.sizes,
            global_batch_size=share * world_size,
            rank=rank,
            world_size=world_size,
            lanes=1,
            shuffle="none",
        )
        return EvalLoader(
            Samples([SampleSource(reader, encode)], seed=EVAL_SEED),
            plan,
            num_workers=self.num_workers,
            workers=self.workers,
            prefetch=self.prefetch,
            pin_memory=torch.cuda.is_available(),
        )
