"""CLIP's byte-pair tokenizer: token for token OpenAI's own, at the speed of Hugging Face's ``tokenizers``."""

from __future__ import annotations

import gzip
import hashlib
import html
import json
import re
from collections.abc import Sequence
from pathlib import Path

import ftfy
import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers

from mmtrain.data.download import Archive, fetch, read_member
from mmtrain.errors import ConfigError

ARCHIVE = Archive("clip-anytorch", "2.6.0", "ebc0afed243851b9dc7e16ab8afb665237e8a5838986e97cd99f123ae4ce94ce")
MEMBER = "clip/bpe_simple_vocab_16e6.txt.gz"
MEMBER_SHA256 = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
SPLIT = r"(?i)<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
START, END = "<|startoftext|>", "<|endoftext|>"


class ClipTokenizer:
    """Turns captions into the token ids that CLIP's text tower reads.

    The text is cleaned as in OpenAI's ``clip/simple_tokenizer.py``: ``ftfy`` (quotes straightened, mojibake mended),
    HTML entities resolved twice, white space collapsed, lower case. The vocabulary is OpenAI's, read from a pinned
    archive at the first use, or by ``load``; copies sent to other processes read it anew.

    Args:
        context_length: Tokens a caption, start and end included.
        cache_dir: Where the archive is kept; the default cache if None.

    Raises:
        ConfigError: ``context_length`` leaves no room for text.
    """

    vocab_size = 49_408
    sot = 49_406
    eot = 49_407

    def __init__(self, context_length: int = 77, cache_dir: str | Path | None = None) -> None:
        if context_length < 2:
            raise ConfigError(f"context_length is {context_length}, and the start and end tokens alone take 2")
        self.context_length = context_length
        self.cache_dir = None if cache_dir is None else Path(cache_dir)
        self._tokenizer: Tokenizer | None = None

    @property
    def fingerprint(self) -> str:
        """The hash of all that decides which ids a caption gets; known without a download."""
        decisive = {
            "vocabulary": MEMBER_SHA256,
            "clean": "ftfy html html whitespace lower",
            "split": SPLIT,
            "context_length": self.context_length,
        }
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()

    def load(self) -> Tokenizer:
        """Reads the vocabulary, downloading it where needed, unless that was done before.

        Raises:
            DataError: The archive cannot be had, or is not the pinned one.
        """
        if self._tokenizer is None:
            self._tokenizer = _build(read_member(fetch(ARCHIVE, self.cache_dir), MEMBER))
        return self._tokenizer

    def encode(self, text: str) -> list[int]:
        """Returns the ids of ``text`` as they are: no start, no end, no limit."""
        ids: list[int] = self.load().encode(_clean(text), add_special_tokens=False).ids
        return ids

    def __call__(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Returns ids int64 ``(len(texts), context_length)``: start, text, end, zeros; a long text loses its tail."""
        ids_BT = np.zeros((len(texts), self.context_length), dtype=np.int64)
        # One by one: encode_batch would start threads, which the loader's forked workers do not survive.
        for row, text in zip(ids_BT, texts, strict=True):
            ids = [self.sot, *self.encode(text)[: self.context_length - 2], self.eot]
            row[: len(ids)] = ids
        return ids_BT

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_tokenizer": None}


def _clean(text: str) -> str:
    # Printable ASCII without an entity is what most captions are, and nothing that ftfy and html look for.
    if not (text.isascii() and text.isprintable() and "&" not in text):
        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return re.sub(r"\s+", " ", text).strip().lower()


def _build(packed: bytes) -> Tokenizer:
    """Builds the tokenizer from OpenAI's gzipped list of merges."""
    assert hashlib.sha256(packed).hexdigest() == MEMBER_SHA256, "the archive's hash is pinned, hence this one's too"
    lines = gzip.decompress(packed).decode("utf-8").split("\n")
    # The file lists more merges than CLIP was trained with; ids run: 256 bytes, 256 word-final bytes, merges, 2 marks.
    merges = [(left, right) for left, right in map(str.split, lines[1 : ClipTokenizer.vocab_size - 512 - 2 + 1])]
    symbols = _byte_symbols()
    names = [*symbols, *(f"{symbol}</w>" for symbol in symbols), *map("".join, merges), START, END]
    vocabulary = {name: index for index, name in enumerate(names)}
    assert (len(vocabulary), vocabulary[END]) == (ClipTokenizer.vocab_size, ClipTokenizer.eot)
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, end_of_word_suffix="</w>"))
    tokenizer.add_special_tokens([AddedToken(START, special=True), AddedToken(END, special=True)])
    split = pre_tokenizers.Split(Regex(SPLIT), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    return tokenizer


def _byte_symbols() -> list[str]:
    """The 256 printable characters that stand for bytes, in the order of their ids (GPT-2's table)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(256 - len(printable))]
