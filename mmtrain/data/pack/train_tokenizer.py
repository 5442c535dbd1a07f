"""Tokenizers trained on texts: the same texts give the same bytes."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, get_args

from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, trainers

from mmtrain.data.decode import vocabularies
from mmtrain.data.decode.text_tokenizer import FILE, TextTokenizer
from mmtrain.data.decode.vocabularies import BERT_SPECIAL, END_OF_TEXT, Vocabulary
from mmtrain.data.pack.documents import Split, find_files, open_documents, readable
from mmtrain.data.pack.faults import BadItemError
from mmtrain.data.progress import progress_bar
from mmtrain.errors import ConfigError, DataError, did_you_mean

Kind = Literal["wordpiece", "bpe", "char"]
"""BERT's WordPiece, GPT-2's byte-level BPE, or a token for each character."""

Texts = Callable[[], Iterator[str]]
"""Gives the texts anew each time."""

_LEAST = {"wordpiece": len(BERT_SPECIAL) + 2, "bpe": 257}
_MOST_LETTERS = 1000  # of WordPiece, as BERT's: rarer characters are unknown


def train_tokenizer(
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    kind: Kind,
    vocab_size: int | None = None,
    lower_case: bool = False,
    text_column: str = "text",
    split_on: Split = "file",
) -> TextTokenizer:
    """Trains a tokenizer on texts and writes its folder.

    ``wordpiece`` has BERT's normaliser, pre-tokeniser and five special tokens; ``bpe`` GPT-2's pre-tokeniser and
    ``<|endoftext|>``, and no text is unknown to it; ``char`` a token for each character of the texts, and no other.

    Args:
        inputs: Files or folders, as `pack_text` takes them.
        out: The tokenizer's folder: new or empty.
        kind: What it is.
        vocab_size: Most tokens, special ones included; of ``char`` the texts decide.
        lower_case: Whether ``wordpiece`` lower-cases the text and takes off its accents.
        text_column: Where the text stands in a table.
        split_on: What a document of a ``.txt`` file is; it changes how much is in memory at a time.

    Raises:
        ConfigError: A setting does not fit the kind.
        DataError: An input is missing, damaged or empty, or ``out`` holds something.
    """
    check_options(kind, vocab_size, lower_case)
    files, out = [Path(path) for path in inputs], Path(out)
    _refuse_used(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as work:
        sources = [(path, readable(path, Path(work))) for _, path in find_files(files)]
        with progress_bar("Training a tokenizer") as progress:
            vocabulary = train(
                lambda: _read(sources, text_column, split_on, progress),
                kind=kind,
                vocab_size=vocab_size,
                lower_case=lower_case,
            )
        made = Path(work) / "made"
        write_tokenizer(vocabulary, made)
        _refuse_used(out)
        shutil.rmtree(out, ignore_errors=True)
        made.rename(out)
    return TextTokenizer(out)


def check_options(kind: str, vocab_size: int | None, lower_case: bool) -> None:
    """Refuses settings that do not fit the kind.

    Raises:
        ConfigError: Names the setting.
    """
    if kind not in get_args(Kind):
        mend = did_you_mean(kind, get_args(Kind))
        raise ConfigError(f"there is no kind of tokenizer {kind!r}", where="--kind", mend=mend)
    if lower_case and kind != "wordpiece":
        mend = "leave it out, or take --kind wordpiece"
        raise ConfigError(f"a tokenizer of kind {kind} keeps the text as it is", where="--lower-case", mend=mend)
    if kind == "char" and vocab_size is not None:
        reason = "a tokenizer of characters has a token for each one in the texts"
        raise ConfigError(reason, where="--vocab-size", mend="leave it out")
    if kind != "char" and (vocab_size is None or vocab_size < _LEAST[kind]):
        reason = f"a tokenizer of kind {kind} needs a vocabulary of at least {_LEAST[kind]}, not {vocab_size}"
        raise ConfigError(reason, where="--vocab-size", mend="give a number such as 8192")


def train(texts: Texts, *, kind: Kind, vocab_size: int | None = None, lower_case: bool = False) -> Vocabulary:
    """The vocabulary that `train_tokenizer` writes.

    Raises:
        ConfigError: A setting does not fit the kind.
        DataError: The texts are empty.
    """
    check_options(kind, vocab_size, lower_case)
    if not any(text.strip() for text in texts()):
        raise DataError("there is no text to train a tokenizer on", mend="name other files, or another --text-column")
    if kind == "char":
        return vocabularies.characters("".join(sorted(set().union(*texts()))))
    assert vocab_size is not None, "refused before"
    return _wordpiece(texts, vocab_size, lower_case) if kind == "wordpiece" else _bpe(texts, vocab_size)


def write_tokenizer(vocabulary: Vocabulary, folder: Path) -> None:
    """Writes the folder of a trained tokenizer."""
    folder.mkdir(parents=True)
    (folder / FILE).write_bytes(vocabulary.content)
    (folder / "tokenizer_config.json").write_text(json.dumps(dict(vocabulary.special)))
    TextTokenizer(folder).load().save(folder)


def _wordpiece(texts: Texts, vocab_size: int, lower_case: bool) -> Vocabulary:
    special = list(BERT_SPECIAL.values())
    tokenizer = Tokenizer(models.WordPiece(unk_token=BERT_SPECIAL["unk_token"]))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lower_case)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    letters = _letters(texts(), tokenizer, most=min(_MOST_LETTERS, (vocab_size - len(special)) // 2))
    # The library would number these as its hash tables give them, and break ties by their numbers.
    inner = [f"##{letter}" for letter in letters if len(tokenizer.pre_tokenizer.pre_tokenize_str(f"a{letter}")) == 1]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=[*special, *letters, *inner],
        initial_alphabet=letters,
        limit_alphabet=len(letters),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(), trainer)
    lines = "".join(f"{token}\n" for token in _in_order(tokenizer))
    return vocabularies.bert(lines.encode(), "trained", lower_case=lower_case)


def _letters(texts: Iterator[str], tokenizer: Tokenizer, most: int) -> list[str]:
    """The most frequent characters of the normalised texts, sorted."""
    counts = Counter[str]()
    for text in texts:
        counts.update(tokenizer.normalizer.normalize_str(text))
    letters = sorted(
        (letter for letter in counts if not letter.isspace()), key=lambda letter: (-counts[letter], letter)
    )
    return sorted(letters[:most])


def _bpe(texts: Texts, vocab_size: int) -> Vocabulary:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(END_OF_TEXT, special=True)],
        initial_alphabet=vocabularies.byte_symbols(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(), trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return vocabularies.byte_level_bpe(_in_order(tokenizer), merges)


def _in_order(tokenizer: Tokenizer) -> list[str]:
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    return sorted(vocabulary, key=vocabulary.__getitem__)


def _read(
    sources: Sequence[tuple[Path, Path]], column: str, split: Split, progress: Callable[[int, int], None]
) -> Iterator[str]:
    """The texts of files, each with where it is read."""
    total, done = sum(path.stat().st_size for path, _ in sources), 0
    for path, readable_path in sources:
        table = open_documents(readable_path, column, split)
        for row in table.rows((column,)):
            try:
                text = row.text(column)
            except BadItemError as bad:
                mend = "mend it, or leave it out: every text decides"
                where = f"{path}, {table.unit} {row.number}"
                raise DataError(f"a text cannot be read: {bad}", where=where, mend=mend) from None
            yield text
        done += path.stat().st_size
        progress(done, total)


def _refuse_used(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(os.scandir(out))):
        mend = "name another folder, or move this one away: nothing is ever overwritten"
        raise DataError("there is something in the tokenizer's folder", where=str(out), mend=mend)
