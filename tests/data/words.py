"""A small WordPiece vocabulary, and documents of its words, packed with their sentences."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmtrain.data import Manifest
from mmtrain.data.decode.text_tokenizer import TextTokenizer
from mmtrain.data.pack.text import pack_text

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [f"w{number}" for number in range(40)]
ENDINGS = ["##s", "##ing", "##ed"]
VOCABULARY = [*SPECIAL, ".", *WORDS, *ENDINGS]


def word_tokenizer(folder: Path) -> TextTokenizer:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    return TextTokenizer(folder)


def sentence(rng: np.random.Generator, words: int) -> str:
    said = [f"{rng.choice(WORDS)}{rng.choice(['', '', '', 's', 'ing', 'ed'])}" for _ in range(words)]
    return f"{' '.join(said).capitalize()}."


def documents(count: int, sentences: Sequence[int] = (2, 9), words: Sequence[int] = (3, 12)) -> list[str]:
    rng = np.random.default_rng(7)
    return [
        " ".join(sentence(rng, rng.integers(*words)) for _ in range(rng.integers(*sentences))) for _ in range(count)
    ]


def pack(texts: Sequence[str], folder: Path, tokenizer: TextTokenizer, sentences: bool = True) -> Manifest:
    folder.parent.mkdir(parents=True, exist_ok=True)
    table = folder.with_suffix(".jsonl")
    table.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    has_end = tokenizer.eos is not None
    return pack_text(
        [table],
        folder,
        tokenizer=tokenizer.source,
        append_eos=has_end,
        sentences=sentences,
        samples_per_shard=17,
    )
