"""A data set of texts: its tokenizer, and shards of the tokens of each split."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from mmtrain.data.decode.text_tokenizer import TextTokenizer
from mmtrain.data.pack.text import pack_text
from mmtrain.data.pack.train_tokenizer import Kind, check_options, train_tokenizer
from mmtrain.data.pack.workers import run_tasks
from mmtrain.data.prepare import MARKER, prepare_once
from mmtrain.errors import DataError

TOKENIZER = "tokenizer"
"""The folder of the tokenizer, beside those of the splits."""

_TEXTS = ".texts"


class TextSource(Protocol):
    """Where a data set of texts comes from."""

    def prepare(self, root: Path) -> None:
        """Writes ``root/train``, ``root/val`` and ``root/tokenizer``, unless they stand there.

        Raises:
            DataError: Something cannot be had, or ``root`` holds something else.
        """


@dataclass(frozen=True)
class TokenizerRecipe:
    """A tokenizer to be trained, as `train_tokenizer` takes it.

    Raises:
        ConfigError: A setting does not fit the kind.
    """

    kind: Kind
    vocab_size: int | None = None
    lower_case: bool = False

    def __post_init__(self) -> None:
        check_options(self.kind, self.vocab_size, self.lower_case)


@dataclass(frozen=True)
class Card:
    """What the data card of a set says.

    Attributes:
        title: Its headline.
        text: Where the texts come from, under which licence, and what to beware of; Markdown.
    """

    title: str
    text: str


def prepare_texts(root: Path, made_from: Mapping[str, Any], make: Callable[[Path], None]) -> None:
    """Runs ``make(folder)`` to fill ``root`` unless it was made from the same.

    Args:
        root: The data set's folder.
        made_from: All that decides what it holds.
        make: Calls `write_texts`.

    Raises:
        DataError: ``root`` holds something else.
    """
    prepare_once(root, make)
    found = json.loads((root / MARKER).read_text(encoding="utf-8")).get("made_from", {})
    wanted = json.loads(json.dumps(made_from))
    differing = [f"{key} {found.get(key)!r}, not {wanted[key]!r}" for key in wanted if found.get(key) != wanted[key]]
    if differing:
        mend = "name another folder (data.root), or move this one away and prepare it again"
        raise DataError(f"this folder was made with {'; '.join(differing)}", where=str(root / MARKER), mend=mend)


def write_texts(
    root: Path,
    splits: Mapping[str, Sequence[str]],
    *,
    recipe: TokenizerRecipe,
    card: Card,
    made_from: Mapping[str, Any],
    samples_per_shard: int,
    append_eos: bool,
    sentences: bool,
) -> None:
    """Writes a tokenizer trained on ``train`` (one of characters: on all), the shards of each split, and a card.

    Args:
        root: An empty folder.
        splits: Documents of each split, ``train`` among them.
        recipe: The tokenizer.
        card: Of the data.
        made_from: Kept in ``dataset.json``.
        samples_per_shard: Documents of a shard.
        append_eos: Ends each document with the tokenizer's end token, if it has one.
        sentences: Stores where sentences end.
    """
    texts = root / _TEXTS
    texts.mkdir()
    for split, documents in splits.items():
        path = texts / f"{split}.jsonl"
        path.write_text("".join(json.dumps({"text": document}) + "\n" for document in documents), encoding="utf-8")
        os.utime(path, (0, 0))  # packing keeps the times of its inputs, which are to be the same each time
    learned_from = [texts / f"{split}.jsonl" for split in splits if split == "train" or recipe.kind == "char"]
    # In a process of its own: the library's threads would be in the way of the loader's forked workers.
    for _ in run_tasks(partial(_train, root / TOKENIZER, recipe), [learned_from], num_workers=2):
        pass
    tokenizer = TextTokenizer(root / TOKENIZER)
    counts = {}
    for split, documents in splits.items():
        pack_text(
            [texts / f"{split}.jsonl"],
            root / split,
            tokenizer=tokenizer.source,
            append_eos=append_eos and tokenizer.eos is not None,
            sentences=sentences,
            samples_per_shard=samples_per_shard,
        )
        (root / f".{split}.lock").unlink(missing_ok=True)
        tokens = json.loads((root / split / MARKER).read_text())["tokens"]
        counts[split] = {"documents": len(documents), "tokens": tokens, "characters": sum(map(len, documents))}
    shutil.rmtree(texts)
    (root / "README.md").write_text(_readme(card, recipe, tokenizer, counts), encoding="utf-8")
    marker = {"made_from": dict(made_from), "splits": counts}
    (root / MARKER).write_text(json.dumps(marker, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _train(out: Path, recipe: TokenizerRecipe, inputs: Sequence[Path]) -> None:
    train_tokenizer(inputs, out, **asdict(recipe))


def _readme(
    card: Card, recipe: TokenizerRecipe, tokenizer: TextTokenizer, counts: Mapping[str, Mapping[str, int]]
) -> str:
    rows = "".join(
        f"| `{split}` | {count['documents']:,} | {count['tokens']:,} | {count['characters']:,} |\n"
        for split, count in counts.items()
    )
    learned_from = "all splits" if recipe.kind == "char" else "`train`"
    return f"""\
# {card.title}

{card.text.strip()}

## Splits

| split | documents | tokens | characters |
|---|---:|---:|---:|
{rows}
## Tokenizer

`{TOKENIZER}/`: kind {recipe.kind}, {tokenizer.vocab_size:,} tokens, trained on {learned_from}; sha256 of
`tokenizer.json`: {tokenizer.fingerprint}
"""
