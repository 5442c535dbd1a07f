"""A tokenizer of texts, as packing, loading, generation and export see it: one view of a ``tokenizer.json``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from mmtrain.data.decode import vocabularies
from mmtrain.data.decode.token_bytes import token_bytes
from mmtrain.data.decode.vocabularies import Vocabulary
from mmtrain.data.shards.atomic import write_atomically
from mmtrain.errors import ConfigError, DataError, did_you_mean

FILE = "tokenizer.json"
_CONFIG = "tokenizer_config.json"
_MAP = "special_tokens_map.json"
_BERT = "vocab.txt"
_OWN: dict[str, Callable[[Path | None], Vocabulary]] = {
    "bytes": lambda cache_dir: vocabularies.utf8_bytes(),
    "clip": vocabularies.clip,
    "minilm": vocabularies.minilm,
}
_SPECIAL = ("pad_token", "eos_token", "bos_token", "cls_token", "sep_token", "mask_token", "unk_token")
_CARRIED = ("chat_template", "model_max_length")
_UNFINISHED = "\ufffd"


@dataclass(frozen=True)
class Identity:
    """What tells whether two tokenizers give the same ids.

    Attributes:
        name: ``bytes``, ``clip``, ``minilm``, or the name of the tokenizer's folder or file.
        sha256: Hash of its ``tokenizer.json``.
        vocab_size: One more than its largest id.
        eos: Id of the token that ends a document; None where it has none.
    """

    name: str
    sha256: str
    vocab_size: int
    eos: int | None


@dataclass(frozen=True)
class _Loaded:
    vocabulary: Vocabulary
    carried: Mapping[str, Any]
    tokenizer: Tokenizer
    ids: Mapping[str, int]
    sha256: str
    vocab_size: int
    characters: frozenset[str] | None  # of a vocabulary of characters, which nothing stands in for others


class TextTokenizer:
    """Turns texts into token ids and back.

    Nothing is read, or fetched, before it is needed. Copies sent to other processes read it anew. No thread is started,
    so that a process may be forked at any time.

    Texts that spell a special token get its id, as everywhere else with such a file.

    Args:
        source: ``bytes`` (UTF-8), ``clip``, ``minilm`` (the uncased BERT's); or a ``tokenizer.json`` of Hugging Face's
            ``tokenizers``; or a folder that holds one, or BERT's ``vocab.txt``.
        eos_token: The token that ends a document, for a file; None takes the one that ``tokenizer_config.json`` beside
            it names.
        cache_dir: Where archives are kept; the default cache if None.

    Raises:
        ConfigError: At its first use: there is no such tokenizer or token.
        DataError: At its first use: a file is damaged, or a vocabulary cannot be had.
    """

    def __init__(
        self, source: str | Path, *, eos_token: str | None = None, cache_dir: str | Path | None = None
    ) -> None:
        if str(source) in _OWN and eos_token is not None:
            raise ConfigError(f"{source} has an end token of its own", where="eos_token", mend="leave it out")
        self.source = str(source)
        self.eos_token = eos_token
        self.cache_dir = None if cache_dir is None else Path(cache_dir)
        self._loaded: _Loaded | None = None

    def load(self) -> TextTokenizer:
        """Reads it, unless that was done before."""
        self._all()
        return self

    @property
    def name(self) -> str:
        """``bytes``, ``clip``, ``minilm``, or the name of its folder or file."""
        path = Path(self.source)
        if self.source in _OWN:
            return self.source
        return path.parent.resolve().name if path.name == FILE else path.stem if path.is_file() else path.resolve().name

    @property
    def fingerprint(self) -> str:
        """sha256 of its ``tokenizer.json``, which `save` writes byte for byte."""
        return self._all().sha256

    @property
    def identity(self) -> Identity:
        """What a packed data set keeps of it."""
        return Identity(self.name, self.fingerprint, self.vocab_size, self.eos)

    @property
    def vocab_size(self) -> int:
        """One more than its largest id."""
        return self._all().vocab_size

    @property
    def pad(self) -> int | None:
        """Id that fills a row up."""
        return self._all().ids.get("pad_token")

    @property
    def eos(self) -> int | None:
        """Id of the token that ends a text."""
        return self._all().ids.get("eos_token")

    @property
    def bos(self) -> int | None:
        """Id of the token that begins a text."""
        return self._all().ids.get("bos_token")

    @property
    def cls(self) -> int | None:
        """Id of BERT's first token."""
        return self._all().ids.get("cls_token")

    @property
    def sep(self) -> int | None:
        """Id of the token that ends each of BERT's segments."""
        return self._all().ids.get("sep_token")

    @property
    def mask(self) -> int | None:
        """Id of the token that hides another."""
        return self._all().ids.get("mask_token")

    @property
    def unk(self) -> int | None:
        """Id of what is not in the vocabulary."""
        return self._all().ids.get("unk_token")

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids of all special tokens, named here or not."""
        added = self._all().tokenizer.get_added_tokens_decoder()
        return frozenset(number for number, token in added.items() if token.special)

    @property
    def tokens(self) -> list[str]:
        """The token of each id, as the vocabulary spells it; empty for an id that has none."""
        known = self._all().tokenizer.get_vocab(with_added_tokens=True)
        names = {number: token for token, number in known.items()}
        return [names.get(number, "") for number in range(self.vocab_size)]

    def encode(self, text: str, *, special_tokens: bool = False) -> list[int]:
        """The ids of ``text``: no start, no end, no limit, unless ``special_tokens`` asks for the tokenizer's own.

        As with Hugging Face, a special token that stands in the text by its name, such as ``<|endoftext|>``, is one.

        Raises:
            DataError: A vocabulary of characters lacks one.
        """
        return list(self._encode(text, special_tokens).ids)

    def encode_with_starts(self, text: str) -> tuple[list[int], list[int]]:
        """The ids of ``text``, and for each the position in ``text`` of the first character that it stands for.

        Raises:
            DataError: A vocabulary of characters lacks one.
        """
        encoding = self._encode(text, special_tokens=False)
        return list(encoding.ids), [start for start, _ in encoding.offsets]

    def encode_batch(self, texts: Iterable[str], *, special_tokens: bool = False) -> list[list[int]]:
        """The ids of each text."""
        # One by one: the library's encode_batch starts threads, which forked workers do not survive.
        return [self.encode(text, special_tokens=special_tokens) for text in texts]

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of these ids. Bytes that are no UTF-8 become U+FFFD."""
        text: str = self._all().tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens)
        return text

    def decode_batch(self, rows: Iterable[Sequence[int]], *, skip_special_tokens: bool = True) -> list[str]:
        """The text of each row of ids."""
        return [self.decode(ids, skip_special_tokens=skip_special_tokens) for ids in rows]

    def stream(self) -> TextStream:
        """Turns ids that come one by one into text."""
        return TextStream(self)

    def token_bytes(self) -> NDArray[np.int64]:
        """UTF-8 bytes of text that each id stands for, shape ``(vocab_size,)``; see `token_bytes`."""
        loaded = self._all()
        return token_bytes(loaded.tokenizer, json.loads(loaded.vocabulary.content), loaded.vocab_size)

    def save(self, folder: str | Path, *, max_length: int | None = None) -> None:
        """Writes ``tokenizer.json`` and its configuration, from which ``AutoTokenizer`` of transformers gives the same.

        Args:
            folder: Made where it is missing.
            max_length: Most tokens that the model beside it takes.
        """
        loaded, folder = self._all(), Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        special = dict(sorted(loaded.vocabulary.special.items()))
        segments = ["token_type_ids"] if self.cls is not None else []
        config = {
            **loaded.carried,
            **({} if max_length is None else {"model_max_length": max_length}),
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_input_names": ["input_ids", *segments, "attention_mask"],
            "clean_up_tokenization_spaces": False,
            **special,
        }
        write_atomically(folder / FILE, loaded.vocabulary.content)
        for name, content in ((_CONFIG, config), (_MAP, special)):
            write_atomically(folder / name, json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n")

    def _encode(self, text: str, special_tokens: bool) -> Encoding:
        loaded = self._all()
        encoding = loaded.tokenizer.encode(text, add_special_tokens=special_tokens)
        if loaded.characters is not None and len(encoding.ids) != len(text):
            strange = next(character for character in text if character not in loaded.characters)
            mend = "leave it out, or train a tokenizer on texts that hold it: python -m mmtrain data tokenizer"
            raise DataError(f"the tokenizer has no character {strange!r}", where=self.source, mend=mend)
        return encoding

    def _all(self) -> _Loaded:
        if self._loaded is None:
            self._loaded = self._read()
        return self._loaded

    def _read(self) -> _Loaded:
        path, carried = Path(self.source), dict[str, Any]()
        if self.source in _OWN:
            vocabulary = _OWN[self.source](self.cache_dir)
        else:
            vocabulary, carried = _read_files(path, self.source)
        if self.eos_token is not None:
            vocabulary = vocabulary._replace(special={**vocabulary.special, "eos_token": self.eos_token})
        tokenizer = _parse(vocabulary.content, self.source)
        known = tokenizer.get_vocab(with_added_tokens=True)
        for token in vocabulary.special.values():
            if token not in known:
                reason = f"the tokenizer has no token {token!r}"
                raise ConfigError(reason, where=self.source, mend=_special_of(tokenizer))
        ids = {name: known[token] for name, token in vocabulary.special.items()}
        sha256 = hashlib.sha256(vocabulary.content).hexdigest()
        size = max(known.values(), default=-1) + 1
        return _Loaded(vocabulary, carried, tokenizer, ids, sha256, size, _characters(vocabulary.content, known))

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_loaded": None}


class TextStream:
    """Text of ids that come one by one: pieces that joined are what `TextTokenizer.decode` gives for all of them.

    A character of several tokens comes whole, with its last token.

    Args:
        tokenizer: The tokenizer.
    """

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        self._special = tokenizer.special_ids
        self._shown: list[int] = []  # what the text of the next ids may depend on
        self._waiting: list[int] = []

    def push(self, token: int) -> str:
        """The text that ``token`` completes, which may be none."""
        if token in self._special:
            return ""
        self._waiting.append(token)
        text = self._text()
        if text.endswith(_UNFINISHED):
            return ""
        self._shown, self._waiting = self._waiting, []
        return text

    def end(self) -> str:
        """What is left: the bytes of a character that was never completed."""
        text, self._waiting = self._text() if self._waiting else "", []
        return text

    def _text(self) -> str:
        before = self._tokenizer.decode(self._shown)
        return self._tokenizer.decode([*self._shown, *self._waiting])[len(before) :]


def _read_files(path: Path, source: str) -> tuple[Vocabulary, dict[str, Any]]:
    """The vocabulary of a file or folder, and what else its configuration says."""
    if path.is_dir() and not (path / FILE).is_file() and (path / _BERT).is_file():
        path = path / _BERT
    elif path.is_dir():
        path = path / FILE
    if not path.is_file():
        mend = f"{did_you_mean(source, _OWN)}; or name a {FILE}, or a folder that holds one or a {_BERT}"
        raise ConfigError(f"there is no tokenizer {source!r}", where="tokenizer", mend=mend)
    config = _read_json(path.with_name(_MAP)) | _read_json(path.with_name(_CONFIG))
    special = {name: _content(config[name]) for name in _SPECIAL if config.get(name) is not None}
    carried = {name: config[name] for name in _CARRIED if name in config}
    if path.name == _BERT:
        vocabulary = vocabularies.bert(
            path.read_bytes(),
            str(path),
            lower_case=bool(config.get("do_lower_case", True)),
            chinese_characters=bool(config.get("tokenize_chinese_chars", True)),
            strip_accents=config.get("strip_accents"),
            special=special,
        )
        return vocabulary, carried
    content = path.read_bytes()
    if not special:
        known = _parse(content, str(path)).get_added_tokens_decoder().values()
        names = {token.content for token in known if token.special}
        special = {name: token for name, token in vocabularies.BERT_SPECIAL.items() if token in names}
    return Vocabulary(content, special), carried


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        reason, mend = f"not a tokenizer's configuration: {error}", "mend or delete it"
        raise DataError(reason, where=str(path), mend=mend) from None
    if not isinstance(content, dict):
        raise DataError("not a tokenizer's configuration: no JSON object", where=str(path), mend="mend or delete it")
    return content


def _content(token: str | Mapping[str, str]) -> str:
    return token if isinstance(token, str) else token["content"]


def _parse(content: bytes, where: str) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_str(content.decode())
    except Exception as error:  # tokenizers raises bare Exceptions
        mend = f"name a {FILE} that Tokenizer.save() of Hugging Face's tokenizers wrote"
        raise DataError(f"not a tokenizer: {error}", where=where, mend=mend) from None
    # A file may carry both; whoever makes rows cuts and fills them.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _characters(content: bytes, known: Mapping[str, int]) -> frozenset[str] | None:
    """The characters of a vocabulary of nothing else, with nothing that stands for others."""
    parts = json.loads(content)
    if parts["pre_tokenizer"] or parts["normalizer"] or parts["model"].get("unk_token"):
        return None
    return frozenset(known) if all(len(token) == 1 for token in known) else None


def _special_of(tokenizer: Tokenizer) -> str:
    special = sorted(token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special)
    return f"its special tokens are {', '.join(special)}" if special else "it has no special tokens"
