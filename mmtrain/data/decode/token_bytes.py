"""How much text a token stands for: what turns a loss per token into bits per byte."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

_WORD_START = "\u2581"  # SentencePiece's mark of a space
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


def token_bytes(tokenizer: Tokenizer, parts: Mapping[str, Any], vocab_size: int) -> NDArray[np.int64]:
    """UTF-8 bytes that each id stands for; special tokens stand for none.

    Exact for byte-level BPE, bytes and characters: over an encoded text they sum to its bytes. SentencePiece's tokens
    count the space that their mark stands for. WordPiece and CLIP's BPE drop white space, and change case and accents:
    what is counted is the normalised text with one space for each word (before it in WordPiece, after it in CLIP), and
    nothing for an unknown word.

    Args:
        tokenizer: The tokenizer.
        parts: The content of its ``tokenizer.json``.
        vocab_size: One more than its largest id.

    Returns:
        int64, shape ``(vocab_size,)``.
    """
    model, types = parts["model"], set(_types(parts))
    added = tokenizer.get_added_tokens_decoder()
    counts = np.zeros(vocab_size, np.int64)
    for token, number in tokenizer.get_vocab(with_added_tokens=True).items():
        if number in added:
            counts[number] = 0 if added[number].special else len(token.encode())
        elif "ByteLevel" in types:
            word = token.removesuffix(model.get("end_of_word_suffix") or "\0")
            counts[number] = len(word) + (len(word) < len(token))
        elif model["type"] == "WordPiece":
            continues = model["continuing_subword_prefix"]
            counts[number] = len(token.removeprefix(continues).encode()) + (not token.startswith(continues))
        elif model.get("byte_fallback") and _BYTE.fullmatch(token):
            counts[number] = 1
        else:
            counts[number] = len(token.replace(_WORD_START, " ").encode())
    return counts


def _types(node: Any) -> Iterator[str]:
    """The types of the parts that texts pass through."""
    if isinstance(node, dict):
        if isinstance(kind := node.get("type"), str):
            yield kind
        for name, inner in node.items():
            if name not in ("vocab", "merges"):
                yield from _types(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from _types(inner)
