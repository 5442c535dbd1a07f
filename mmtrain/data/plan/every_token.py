"""Rows in which each token of a set of documents is scored exactly once: the plan of a language model's evaluation.

The documents, end to end, are one line of N tokens. Row i holds the tokens [i T, i T + T + 1): the model reads the
first T and is scored on the last T, so that the last token of a row is the first of the next one. All tokens but the
first of the line are scored, whatever the batch and the ranks; the last row may be short.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mmtrain.data.plan.epoch import EpochPlan
from mmtrain.data.plan.share import Pieces, Share
from mmtrain.errors import DataError


class EveryToken(EpochPlan):
    """The rows of one rank, in the order of the documents; the last batch is filled with rows of weight 0.

    Args:
        lengths: Tokens of each document.
        sequence_length: Tokens T that a row scores; it holds one more.
        global_batch_size: Rows of a step, over all ranks.
        rank: This rank.
        world_size: Number of ranks; must divide the global batch.

    Attributes:
        tokens: Number of tokens that are scored.

    Raises:
        ConfigError: The global batch does not divide.
        DataError: The documents do not fill one row.
    """

    def __init__(
        self, lengths: ArrayLike, *, sequence_length: int, global_batch_size: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self._ends = np.cumsum(np.asarray(lengths, np.int64))
        self._sequence_length = sequence_length
        total = int(self._ends[-1]) if len(self._ends) else 0
        if total <= sequence_length:
            reason = f"the evaluation set has {total} tokens, less than one row of {sequence_length + 1}"
            raise DataError(reason, mend="evaluate on more text, or set a smaller data.sequence_length")
        self.tokens = total - 1
        rows = -(-self.tokens // sequence_length)
        super().__init__(
            [rows], global_batch_size=global_batch_size, rank=rank, world_size=world_size, lanes=1, shuffle="none"
        )

    def share(self, epoch: int, step: int) -> Share:
        """This rank's rows of a step."""
        rows = super().share(epoch, step)
        first = rows.sample * self._sequence_length
        stop = np.minimum(first + self._sequence_length + 1, self._ends[-1])
        # The documents in which each row begins and ends, and all between them that have tokens.
        low, high = np.searchsorted(self._ends, first, "right"), np.searchsorted(self._ends, stop, "left")
        row = np.repeat(np.arange(len(rows)), high - low + 1)
        document = np.concatenate([np.arange(begin, end + 1) for begin, end in zip(low, high, strict=True)])
        begins = np.concatenate([[0], self._ends])[document]
        starts = np.maximum(first[row], begins) - begins
        stops = np.minimum(stop[row], self._ends[document]) - begins
        some = stops > starts
        pieces = Pieces(row[some], starts[some], stops[some])
        source, epochs = np.zeros(len(pieces.row), np.int64), np.full(len(pieces.row), epoch)
        return Share(source, epochs, document[some], rows.weight, pieces)

    @property
    def identity(self) -> Mapping[str, Any]:
        """All that the rows depend on besides the shards."""
        return {"kind": "every_token", "sequence_length": self._sequence_length}
