"""Lengths of real texts in tokens."""

from __future__ import annotations

from mmtrain.data.decode.text_tokenizer import TextTokenizer
from mmtrain.data.sources.minilm import minilm_folder
from mmtrain.data.sources.wiki import read_articles

SPECIAL = 2


def of_articles() -> list[int]:
    """Tokens of each article of the `wiki` set in BERT's vocabulary, with those that begin and end a text."""
    tokenizer = TextTokenizer(minilm_folder())
    return [len(ids) + SPECIAL for ids in tokenizer.encode_batch(list(read_articles().values()))]
