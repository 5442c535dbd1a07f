"""Rows of tokens that are packed from documents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmtrain.data.fetch.reader import ShardReader
from mmtrain.data.loader.batch import WEIGHT, Arrays, Field, Rows, Status
from mmtrain.data.loader.samples import OnFault, joint_fingerprint
from mmtrain.data.plan.share import Share
from mmtrain.data.shards.index import RawSample
from mmtrain.errors import DataError

Tokens = Callable[[RawSample], NDArray[np.integer]]
"""The token ids of a document, shape ``(num_tokens,)``. Raises `ValueError` for a bad one."""

NO_DOCUMENT = -1


class TokenSource(NamedTuple):
    """A data set of documents and what reads their tokens."""

    reader: ShardReader
    tokens: Tokens


class PackedRows:
    """Makes batches whose rows are ``row_length`` tokens of one or more documents, as a plan packed them.

    A `mmtrain.data.loader.batch.Maker`. A batch holds ``tokens`` int64 (B, T); ``position`` int32 (B, T), which starts
    from 0 with every part of a document; ``document`` int32 (B, T), the number of that part in its row, or -1 where
    the row has no more tokens, or those of a document could not be read; ``weight`` float32 (B,); ``key``, for each row
    the keys of its parts.

    Args:
        sources: The data sets, in the order that numbers them in the plan.
        row_length: Tokens of a row.
        on_fault: ``raise``, or ``skip`` to leave out documents that cannot be read.
    """

    def __init__(self, sources: Sequence[TokenSource], *, row_length: int, on_fault: OnFault = "raise") -> None:
        self.sources = list(sources)
        self.row_length = row_length
        self.on_fault = on_fault

    @property
    def fingerprint(self) -> str:
        """sha256 of the data sets; with one, its own."""
        return joint_fingerprint([source.reader.fingerprint for source in self.sources])

    def fields(self, share: Share) -> dict[str, Field]:
        """Known without reading."""
        length = (self.row_length,)
        return {
            "tokens": Field(length, np.dtype(np.int64)),
            "position": Field(length, np.dtype(np.int32)),
            "document": Field(length, np.dtype(np.int32)),
            WEIGHT: Field((), np.dtype(np.float32)),
        }

    def fill(self, share: Share, arrays: Arrays, status: Status) -> Rows:
        """Copies each part of a document to its place."""
        assert share.pieces is not None, "the plan does not pack"
        arrays[WEIGHT][:] = share.weight
        for name, nothing in (("tokens", 0), ("position", 0), ("document", NO_DOCUMENT)):
            arrays[name][:] = nothing
        keys: list[list[str]] = [[] for _ in range(len(share))]
        faults: list[str] = []
        filled = 0
        row_before = -1
        parts = zip(
            share.source.tolist(), share.sample.tolist(), *(part.tolist() for part in share.pieces), strict=True
        )
        for source, sample, row, start, stop in parts:
            filled = filled if row == row_before else 0
            row_before = row
            status[:] = (source, sample)
            span = slice(filled, filled + stop - start)
            arrays["position"][row, span] = np.arange(stop - start)
            try:
                arrays["tokens"][row, span] = self._tokens(source, sample, stop)[start:stop]
                arrays["document"][row, span] = len(keys[row])
            except DataError as error:
                if self.on_fault == "raise":
                    raise
                faults.append(str(error))
            keys[row].append(self.sources[source].reader.key(sample))
            filled = span.stop
        return Rows({"key": keys}, faults)

    def where(self, source: int, sample: int) -> str:
        """The shard and key of a document."""
        return self.sources[source].reader.where(sample)

    def _tokens(self, source: int, sample: int, needed: int) -> NDArray[np.integer]:
        reader, tokens = self.sources[source]
        raw = reader.read(sample)
        try:
            found = tokens(raw)
            if len(found) < needed:
                raise ValueError(f"it holds {len(found)} tokens, its index says at least {needed}")
        except ValueError as error:
            mend = "index the data set again, or set data.on_fault=skip"
            reason = f"a document cannot be used: {error}"
            raise DataError(reason, where=reader.where(sample), mend=mend) from error
        return found


def read_tokens(raw: RawSample) -> NDArray[np.integer]:
    """The ids that ``data pack text`` wrote: a member ``.u16`` or ``.u32`` of little-endian numbers."""
    for extension in ("u16", "u32"):
        if extension in raw:
            return np.frombuffer(raw[extension], f"<u{int(extension[1:]) // 8}")
    raise ValueError("it has no member .u16 or .u32 of token ids")
