from __future__ import annotations

import pytest

from mmtrain.config import BatchSize, Budget, derive_batch, total_steps
from mmtrain.errors import ConfigError


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ((256, 4, 32), BatchSize(256, 64, 32, 2)),
        ((256, 4, None), BatchSize(256, 64, 64, 1)),
        ((256, 4, 64), BatchSize(256, 64, 64, 1)),
        ((256, 8, 64), BatchSize(256, 32, 32, 1)),  # more ranks need no smaller chunks
        ((1, 1, None), BatchSize(1, 1, 1, 1)),
    ],
)
def test_a_global_batch_is_cut_evenly(sizes, expected):
    assert derive_batch(*sizes) == expected


@pytest.mark.parametrize(
    ("sizes", "parts"),
    [
        ((100, 3, 32), ["data.global_batch_size=100", "3 ranks x micro_batch_size 32", "96 or 192", "ranks: 4"]),
        ((10, 4, None), ["4 ranks", "8 or 12", "ranks: 2 or 5"]),
        ((24, 2, 5), ["data.global_batch_size: 20 or 30", "data.micro_batch_size: 4 or 6", "ranks: 6"]),
        ((2, 4, None), ["data.global_batch_size: 4", "ranks: 2"]),
        ((0, 1, None), ["data.global_batch_size=0"]),
        ((8, 1, 0), ["data.micro_batch_size=0"]),
    ],
)
def test_an_indivisible_batch_is_refused_with_valid_neighbours(sizes, parts):
    with pytest.raises(ConfigError) as caught:
        derive_batch(*sizes)
    for part in parts:
        assert part in str(caught.value)


def test_every_neighbour_offered_is_valid():
    for global_batch_size in range(1, 40):
        for world_size in range(1, 9):
            for micro in (None, 1, 2, 3, 5, 8):
                try:
                    batch = derive_batch(global_batch_size, world_size, micro)
                except ConfigError as error:
                    knobs = dict(part.split(": ") for part in error.mend.partition("one: ")[2].split("; "))
                    for value in knobs["data.global_batch_size"].split(" or "):
                        derive_batch(int(value), world_size, micro)
                    for value in knobs.get("data.micro_batch_size", "1").split(" or "):
                        assert "data.micro_batch_size" not in knobs or derive_batch(
                            global_batch_size, world_size, int(value)
                        )
                    for value in filter(None, knobs["ranks"].split(" or ")):
                        derive_batch(global_batch_size, int(value), micro)
                else:
                    assert batch.micro * batch.accumulation == batch.per_rank
                    assert batch.per_rank * world_size == global_batch_size


@pytest.mark.parametrize(
    ("budget", "steps"),
    [
        (Budget(epochs=3, samples=None, tokens=None), 30),
        (Budget(epochs=None, samples=286_720_000, tokens=None), 70_000),
        (Budget(epochs=None, samples=4097, tokens=None), 2),
        (Budget(epochs=None, samples=None, tokens=4096 * 128 * 5), 5),
        (Budget(epochs=None, samples=None, tokens=4096 * 128 * 5 + 1), 6),
    ],
)
def test_a_budget_buys_steps(budget, steps):
    assert total_steps(budget, global_batch_size=4096, steps_per_epoch=10, tokens_per_sample=128) == steps


def test_tokens_of_data_without_tokens_are_refused():
    with pytest.raises(ConfigError, match=r"budget\.tokens=5"):
        total_steps(Budget(None, None, 5), global_batch_size=1, steps_per_epoch=1)
