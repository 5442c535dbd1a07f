from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
from gloo_ranks import RunRanks

from mmtrain import distributed
from mmtrain.callback.faults import Faults
from mmtrain.errors import DataError


class Data:
    """Each rank leaves out as many samples a step as its number says, and one."""

    def take_faults(self) -> list[str]:
        rank = distributed.data_parallel_rank()
        return [f"shard of rank {rank}"] * (1 + rank)


class Rows:
    def __init__(self) -> None:
        self.rows: list[tuple[int, float]] = []

    def log_metrics(self, row: dict[str, float], step: int) -> None:
        self.rows.append((step, row["data/faults"]))


def train(callback: Faults, steps: int, data: Any, every: int = 1) -> list[tuple[int, float]]:
    logger = Rows()
    for step in range(1, steps + 1):
        trainer = SimpleNamespace(
            datamodule=data,
            global_step=step,
            max_steps=steps,
            log_every_n_steps=every,
            is_global_zero=distributed.rank() == 0,
            loggers=[logger],
        )
        callback.on_train_batch_end(trainer, None, None, None, 0)  # type: ignore[arg-type]
    return logger.rows


def count(limit: int, sharing: int = 1) -> Any:
    distributed.join_tensor_parallel(sharing)
    callback = Faults(limit=limit)
    try:
        rows = train(callback, 3, Data())
    except DataError as error:
        return callback.total, error.message, str(error.mend)
    return callback.total, rows


def test_faults_of_all_ranks_are_counted_and_written_once(run_ranks: RunRanks) -> None:
    first, second = run_ranks(2, count, 100)
    assert first == (9, [(1, 3.0), (2, 6.0), (3, 9.0)])
    assert second == (9, [])


def test_ranks_that_share_blocks_leave_out_the_same_samples(run_ranks: RunRanks) -> None:
    first, *others = run_ranks(4, count, 100, 2)
    assert first == (9, [(1, 3.0), (2, 6.0), (3, 9.0)])
    assert others == [(9, [])] * 3


def test_too_many_end_the_run_on_all_ranks_alike(run_ranks: RunRanks) -> None:
    outcomes = run_ranks(2, count, 5)
    assert outcomes[0] == outcomes[1]
    total, message, mend = outcomes[0]
    assert (total, message) == (6, "6 samples could not be used, more than callback.faults.limit = 5")
    assert "shard of rank 1" in mend


def test_only_steps_that_write_a_row_ask_and_a_run_without_faults_writes_none() -> None:
    assert [step for step, _ in train(Faults(), 7, Data(), every=3)] == [1, 3, 6, 7]
    assert train(Faults(), 3, SimpleNamespace(take_faults=list)) == []


def test_bad_samples_are_named_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        train(Faults(), 2, Data())
    assert caplog.text.count("left out a sample: shard of rank 0") == 2
    assert "left out 1 samples up to step 2, 2 in all" in caplog.text


def test_a_resumed_run_goes_on_counting() -> None:
    before = Faults()
    train(before, 3, Data())
    after = Faults()
    after.load_state_dict(before.state_dict())
    assert train(after, 1, Data()) == [(1, 4.0)]
