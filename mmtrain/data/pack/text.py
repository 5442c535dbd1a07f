"""Documents, tokenised and packed into shards from which a language model's sequences are cut."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from mmtrain.data.decode.text_tokenizer import TextTokenizer
from mmtrain.data.pack.catalogue import Catalogue
from mmtrain.data.pack.documents import Piece, Source, Split, find_files, open_documents, plan_shards, readable
from mmtrain.data.pack.faults import BadItemError, Faults
from mmtrain.data.pack.folder import PackFolder
from mmtrain.data.pack.job import pack_shards
from mmtrain.data.pack.rows import Start
from mmtrain.data.pack.sentences import sentence_ends
from mmtrain.data.prepare import MARKER
from mmtrain.data.shards.atomic import write_atomically
from mmtrain.data.shards.manifest import Manifest
from mmtrain.data.shards.write import Sample
from mmtrain.errors import ConfigError, DataError, did_you_mean

SENTENCES = "sentences.u32"
"""Extension of the member that says where sentences end."""

VERSION = 2
"""To be raised whenever the same texts would give other shards."""


def pack_text(
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    tokenizer: str | Path,
    eos_token: str | None = None,
    append_eos: bool = True,
    text_column: str = "text",
    split_on: Split = "file",
    keep_text: bool = False,
    sentences: bool = False,
    samples_per_shard: int = 10_000,
    skip_bad: bool = False,
    num_workers: int = 1,
) -> Manifest:
    """Tokenises documents and packs them into ``out``, one sample a document, in the order of the inputs.

    Members of a sample: ``u16`` with its ids as little-endian uint16, or ``u32`` where the vocabulary is over 65,536;
    and, if asked for, ``txt``, and ``sentences.u32``: little-endian uint32, for each sentence the number of tokens up
    to its end, the end token belonging to the last one. The index gets the column ``num_tokens``. ``dataset.json``
    tells the tokenizer's name, hash, vocabulary size and end token, for a run to compare with its own. A pack that was
    interrupted goes on; a finished one is returned.

    Args:
        inputs: Files ``.jsonl``, ``.csv``, ``.tsv``, ``.txt`` (or these with ``.gz``) and ``.parquet``, or folders.
        out: The data set's folder: new, empty, or one in which this pack was begun.
        tokenizer: ``bytes``, ``clip``, ``minilm``, or a file or folder, as `TextTokenizer` takes it.
        eos_token: The token that ends a document; None takes the tokenizer's own.
        append_eos: Ends each document with that token.
        text_column: Where the text stands in a table.
        split_on: What a document of a ``.txt`` file is: the ``file``, or what stands between empty lines.
        keep_text: Stores the text too.
        sentences: Stores where its sentences end, as `sentence_ends` finds them.
        samples_per_shard: Documents of a shard.
        skip_bad: Leaves out what cannot be packed, empty documents too, and lists it in ``pack.json``.
        num_workers: Processes; they change no byte of the result.

    Raises:
        ConfigError: There is no such tokenizer or end token, or a number is out of range.
        DataError: An input is missing, damaged or empty; or ``out`` holds other things.
        RunError: A worker process was killed.
    """
    _check_options(samples_per_shard, split_on)
    encoder = TextTokenizer(tokenizer, eos_token=eos_token).load()
    if append_eos and encoder.eos is None:
        mend = "name it: --eos-token TOKEN (eos_token), or leave it out: --no-append-eos (append_eos=False)"
        raise ConfigError("the tokenizer does not say which token ends a document", where=str(tokenizer), mend=mend)
    files, out = [Path(path) for path in inputs], Path(out)
    packer = _PackText(encoder, append_eos, text_column, split_on, keep_text, sentences)
    made_from = {
        "pack": "text",
        "version": VERSION,
        "tokenizer": asdict(encoder.identity),
        "append_eos": append_eos,
        "text_column": text_column,
        "split_on": split_on,
        "keep_text": keep_text,
        "sentences": sentences,
        "samples_per_shard": samples_per_shard,
        "skip_bad": skip_bad,
        "libraries": {"tokenizers": version("tokenizers")},
    }
    with PackFolder.claim(out, "text", made_from) as place:
        finished = place.confirm_inputs(_identity(files, place.work))
        if finished is not None:
            return finished
        sources = (Source(name, str(path), str(readable(path, place.work))) for name, path in find_files(files))
        shards = plan_shards(sources, text_column, split_on, samples_per_shard)
        catalogue = Catalogue(place.work / "shards.jsonl", shards)
        if not len(catalogue):
            raise DataError("the inputs hold no document", where=", ".join(map(str, files)), mend="name other files")

        def describe(totals: Mapping[str, int]) -> None:
            content = {
                "tokenizer": asdict(encoder.identity),
                "member": packer.member,
                "append_eos": append_eos,
                "sentences": sentences,
                "tokens": totals["tokens"],
            }
            text = json.dumps(content, indent=1, ensure_ascii=False)
            write_atomically(out / MARKER, text.encode() + b"\n")

        return pack_shards(
            place,
            packer,
            lambda shard: catalogue.read([shard]),
            len(catalogue),
            listing=Faults(skip_bad),
            num_workers=num_workers,
            columns=("num_tokens",),
            describe=describe,
        )


@dataclass(frozen=True)
class _PackText:
    tokenizer: TextTokenizer
    append_eos: bool
    column: str
    split: Split
    keep_text: bool
    sentences: bool

    @property
    def member(self) -> str:
        """Extension of the ids."""
        return "u16" if self.tokenizer.vocab_size <= 2**16 else "u32"

    def samples(self, records: Sequence[Any], faults: Faults, totals: Counter[str]) -> Iterator[Sample]:
        dtype = "<u2" if self.member == "u16" else "<u4"
        for number, where, text in self._documents(records, faults):
            try:
                ids, starts = self.tokenizer.encode_with_starts(text)
            except DataError as error:
                faults.add(where, error.message)
                continue
            if not ids:
                faults.add(where, "the tokenizer leaves nothing of it")
                continue
            if self.append_eos:
                assert self.tokenizer.eos is not None, "refused before"
                ids.append(self.tokenizer.eos)
            totals["tokens"] += len(ids)
            members = {self.member: np.array(ids, dtype).tobytes()}
            if self.sentences:
                members[SENTENCES] = _sentences(text, starts, len(ids)).tobytes()
            yield f"{number:09d}", members | ({"txt": text.encode()} if self.keep_text else {})

    def _documents(self, records: Sequence[Any], faults: Faults) -> Iterator[tuple[int, str, str]]:
        """Number in the whole input, place and text of each good document."""
        for number, pieces in records:
            for source, start, stop in pieces:
                piece = Piece(Source(*source), Start(*start), stop)
                table = open_documents(Path(piece.source.readable), self.column, self.split)
                for row in table.rows((self.column,), piece.start, piece.stop):
                    where = f"{piece.source.path}, {table.unit} {row.number}"
                    try:
                        yield number, where, row.text(self.column)
                    except BadItemError as bad:
                        faults.add(where, str(bad))
                    number += 1


def _sentences(text: str, starts: Sequence[int], num_tokens: int) -> NDArray[np.uint32]:
    """Tokens up to the end of each sentence that has any; a token belongs to the sentence that it starts in."""
    ends = np.searchsorted(starts, sentence_ends(text), "left")
    ends[-1] = num_tokens
    return ends[np.diff(ends, prepend=0) > 0].astype("<u4")


def _check_options(samples_per_shard: int, split_on: str) -> None:
    if samples_per_shard < 1:
        reason = f"samples_per_shard is {samples_per_shard}"
        raise ConfigError(reason, where="samples_per_shard", mend="give a number of at least 1")
    if split_on not in get_args(Split):
        mend = did_you_mean(split_on, get_args(Split))
        raise ConfigError(f"a text cannot be split on {split_on!r}", where="split_on", mend=mend)


def _identity(files: Sequence[Path], work: Path) -> Mapping[str, Any]:
    """What tells whether the inputs changed: names, sizes and times."""
    size = 0

    def records() -> Iterator[list[Any]]:
        nonlocal size
        for name, path in find_files(files):
            status = path.stat()
            size += status.st_size
            yield [name, status.st_size, status.st_mtime_ns]

    catalogue = Catalogue(work / "inputs.jsonl", records())
    return {"files": len(catalogue), "bytes": size, "sha256": catalogue.sha256}
