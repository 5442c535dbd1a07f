"""One text file of the user's, cut in two: its first nine tenths to train on, the rest to evaluate on (as nanoGPT)."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import Any

from mmtrain.data.pack.train_tokenizer import Kind
from mmtrain.data.sources.text_set import Card, TokenizerRecipe, prepare_texts, write_texts
from mmtrain.errors import ConfigError, DataError

VERSION = 1
"""To be raised whenever the same file would give other shards."""

TINY_SHAKESPEARE = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SAMPLES_PER_SHARD = 1024


class TextFile:
    """A text file as a data set.

    The text is cut into documents of at most ``document_length`` characters, at line ends where there are any, with no
    token between them: joined in their order they are the text. They are what is shuffled, and what is read to make a
    row, whatever the size of the file; a row that begins in one document goes on in the next one of the shuffled order.

    Args:
        path: The file, UTF-8.
        tokenizer: Kind of the tokenizer. One of characters knows those of the whole file.
        vocab_size: Its tokens; None for one of characters.
        val_fraction: Share of the characters, at the end, that ``val`` gets.
        document_length: Most characters of a document.

    Raises:
        ConfigError: A setting is out of range.
    """

    def __init__(
        self,
        path: str | Path,
        tokenizer: Kind = "char",
        vocab_size: int | None = None,
        val_fraction: float = 0.1,
        document_length: int = 4096,
    ) -> None:
        if not 0 < val_fraction < 1:
            reason = f"val_fraction is {val_fraction}, and must lie between 0 and 1"
            raise ConfigError(reason, where="data.source.val_fraction", mend="set 0.1 for nanoGPT's split")
        if document_length < 1:
            reason = f"document_length is {document_length}"
            raise ConfigError(reason, where="data.source.document_length", mend="set 1 or more")
        self.path = Path(path)
        self.recipe = TokenizerRecipe(tokenizer, vocab_size)
        self.val_fraction = val_fraction
        self.document_length = document_length

    @property
    def name(self) -> str:
        """``text_file``."""
        return "text_file"

    def prepare(self, root: Path) -> None:
        """Makes the data set in ``root``, unless it stands there.

        Raises:
            DataError: The file is missing, empty or no UTF-8, or ``root`` holds anything else than this data set.
        """
        text = self._read()
        made_from = self._made_from(text)
        prepare_texts(root, made_from, partial(self._make, text, made_from))

    def _read(self) -> str:
        try:
            text = self.path.read_bytes().decode()
        except OSError as error:
            mend = f"name a text file: data.source.path=FILE; tiny Shakespeare is at {TINY_SHAKESPEARE}"
            raise DataError(f"the text cannot be read: {error.strerror}", where=str(self.path), mend=mend) from None
        except UnicodeDecodeError as error:
            mend = "convert it: iconv -t UTF-8"
            raise DataError(f"the text is not UTF-8: {error}", where=str(self.path), mend=mend) from None
        if not text.strip():
            raise DataError("the text is empty", where=str(self.path), mend="name another file: data.source.path=FILE")
        return text

    def _made_from(self, text: str) -> dict[str, Any]:
        return {
            "source": self.name,
            "version": VERSION,
            "tokenizer": self.recipe.kind,
            "vocab_size": self.recipe.vocab_size,
            "val_fraction": self.val_fraction,
            "document_length": self.document_length,
            "text": hashlib.sha256(text.encode()).hexdigest(),
        }

    def _make(self, text: str, made_from: dict[str, Any], root: Path) -> None:
        edge = int(len(text) * (1 - self.val_fraction))
        card = Card(
            f"{self.path.name}: a text file",
            f"The user's file `{self.path.name}`, {len(text):,} characters, sha256 {made_from['text']}; its licence is"
            f"\nthe file's. `val` holds the last {len(text) - edge:,} characters. Documents are pieces of it.",
        )
        write_texts(
            root,
            {"train": cut(text[:edge], self.document_length), "val": cut(text[edge:], self.document_length)},
            recipe=self.recipe,
            card=card,
            made_from=made_from,
            samples_per_shard=SAMPLES_PER_SHARD,
            append_eos=False,
            sentences=False,
        )


def cut(text: str, length: int) -> list[str]:
    """Pieces of at most ``length`` characters that joined are ``text``, cut after line ends where there are any."""
    pieces, start = [], 0
    while start < len(text):
        stop = start + length
        if stop < len(text):
            stop = text.rfind("\n", start, stop) + 1 or stop
        pieces.append(text[start:stop])
        start = stop
    return pieces
