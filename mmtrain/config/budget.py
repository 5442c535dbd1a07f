"""How a global batch is cut over ranks and chunks, and how many steps a budget buys."""

from __future__ import annotations

from dataclasses import dataclass

from mmtrain.config.schema import Budget
from mmtrain.errors import ConfigError


@dataclass(frozen=True)
class BatchSize:
    """Samples of one optimizer step.

    Attributes:
        global_: Over all ranks.
        per_rank: On one rank.
        micro: In one forward pass of one rank.
        accumulation: Forward passes of a rank in a step.
    """

    global_: int
    per_rank: int
    micro: int
    accumulation: int


def derive_batch(global_batch_size: int, world_size: int, micro_batch_size: int | None) -> BatchSize:
    """Cuts a global batch into equal shares of the ranks, and a share into equal chunks.

    Args:
        global_batch_size: Samples of a step, over all ranks.
        world_size: Number of ranks.
        micro_batch_size: Most samples that one forward pass may hold; null takes a rank's whole share at once.
            One larger than the share is the share.

    Raises:
        ConfigError: The numbers do not divide; the nearest valid values of each are named.
    """
    for name, value in (("data.global_batch_size", global_batch_size), ("data.micro_batch_size", micro_batch_size)):
        if value is not None and value < 1:
            raise ConfigError(f"{name}={value} must be at least 1")
    if not _divides(global_batch_size, world_size, micro_batch_size):
        raise _indivisible(global_batch_size, world_size, micro_batch_size)
    per_rank = global_batch_size // world_size
    micro = min(micro_batch_size or per_rank, per_rank)
    return BatchSize(global_batch_size, per_rank, micro, per_rank // micro)


def total_steps(
    budget: Budget, *, global_batch_size: int, steps_per_epoch: int, tokens_per_sample: int | None = None
) -> int:
    """Returns the optimizer steps of a budget; the last step of a budget of samples or tokens may go beyond it.

    Args:
        budget: Exactly one of its fields is set.
        global_batch_size: Samples of a step, over all ranks.
        steps_per_epoch: Steps of one pass over the data.
        tokens_per_sample: Tokens of a sample, padding included; None where the data has no fixed number.

    Raises:
        ConfigError: A budget of tokens for data without tokens.
    """
    if budget.epochs is not None:
        return budget.epochs * steps_per_epoch
    if budget.samples is not None:
        return -(-budget.samples // global_batch_size)
    assert budget.tokens is not None, "validate() holds that one is set"
    if tokens_per_sample is None:
        raise ConfigError(
            f"budget.tokens={budget.tokens}, but the data has no number of tokens a sample",
            mend="set budget.samples or budget.epochs, and budget.tokens=null",
        )
    return -(-budget.tokens // (global_batch_size * tokens_per_sample))


def _divides(global_batch_size: int, world_size: int, micro_batch_size: int | None) -> bool:
    per_rank, rest = divmod(global_batch_size, world_size)
    if rest or per_rank < 1:
        return False
    return micro_batch_size is None or micro_batch_size >= per_rank or per_rank % micro_batch_size == 0


def _indivisible(global_batch_size: int, world_size: int, micro_batch_size: int | None) -> ConfigError:
    chunks = f" x micro_batch_size {micro_batch_size}" if micro_batch_size is not None else ""
    unit = world_size * (micro_batch_size or 1)
    below = global_batch_size // unit * unit
    knobs = {"data.global_batch_size": [size for size in (below, below + unit) if size > 0]}
    per_rank, rest = divmod(global_batch_size, world_size)
    if micro_batch_size is not None and not rest:
        micros = [micro for micro in range(1, per_rank + 1) if per_rank % micro == 0]
        knobs["data.micro_batch_size"] = _nearest(micros, micro_batch_size)
    worlds = [
        world for world in range(1, global_batch_size + 1) if _divides(global_batch_size, world, micro_batch_size)
    ]
    knobs["ranks"] = _nearest(worlds, world_size)
    nearest = "; ".join(f"{knob}: {' or '.join(map(str, values))}" for knob, values in knobs.items())
    return ConfigError(
        f"data.global_batch_size={global_batch_size} does not divide over {world_size} ranks{chunks}",
        mend=f"nearest valid, changing one: {nearest}",
    )


def _nearest(values: list[int], wanted: int) -> list[int]:
    below = [value for value in values if value < wanted]
    above = [value for value in values if value > wanted]
    return below[-1:] + above[:1]
