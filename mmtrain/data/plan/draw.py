"""Random draws that belong to a sample, not to the process that happens to prepare it.

The generator is counter-based: its key is (seed, epoch), its counter starts at the sample's number and its data set's.
No worker, rank or resume can shift the draws, and nothing has to be saved.
"""

from __future__ import annotations

import enum
import threading
from typing import Any, NamedTuple

import numpy as np


class Stream(enum.IntEnum):
    """A use of randomness. Each has a counter of its own, so that a draw added to one never shifts another."""

    IMAGE = 1
    TEXT = 2
    MASK = 3
    PAIR = 4
    MIX = 5


class SampleSeed(NamedTuple):
    """Identity of a sample in an epoch of a run.

    Attributes:
        seed: Seed of the run.
        epoch: Pass over its data set.
        sample: Its number in the order of the manifest.
        source: Number of its data set; 0 without mixing.
    """

    seed: int
    epoch: int
    sample: int
    source: int = 0

    def generator(self, stream: Stream) -> np.random.Generator:
        """The sample's generator for one use.

        It is shared: valid until this thread asks for the same stream of another sample. Rewinding one Philox takes 3
        us, making a new one 36 us.
        """
        generator, state = _generators.of(stream)
        state["state"]["key"][:] = (self.seed, self.epoch)
        state["state"]["counter"][:] = (0, self.sample, stream, self.source)
        generator.bit_generator.state = state
        return generator


class _Generators(threading.local):
    """One generator for each stream and thread, with a state dictionary whose buffer is empty."""

    def __init__(self) -> None:
        self._by_stream: dict[Stream, tuple[np.random.Generator, dict[str, Any]]] = {}

    def of(self, stream: Stream) -> tuple[np.random.Generator, dict[str, Any]]:
        if stream not in self._by_stream:
            philox = np.random.Philox(0)
            self._by_stream[stream] = (np.random.Generator(philox), dict(philox.state))
        return self._by_stream[stream]


_generators = _Generators()
