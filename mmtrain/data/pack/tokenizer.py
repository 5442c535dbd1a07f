"""The tokenizers that text is packed with, by name or file, and what identifies them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tokenizers import Tokenizer

from mmtrain.data.decode.tokenizer import MEMBER_SHA256, ClipTokenizer
from mmtrain.errors import ConfigError, DataError, did_you_mean

_FILE = "tokenizer.json"


@dataclass(frozen=True)
class Identity:
    """What tells whether two tokenizers give the same ids.

    Attributes:
        name: ``bytes``, ``clip``, or the name of the tokenizer's folder or file.
        sha256: Hash of its vocabulary file.
        vocab_size: One more than its largest id.
        eos: Id of the token that ends a document; None where it has none.
    """

    name: str
    sha256: str
    vocab_size: int
    eos: int | None


class TextTokenizer(Protocol):
    """Turns a text into ids. Is sent to worker processes."""

    @property
    def identity(self) -> Identity: ...

    def encode(self, text: str) -> list[int]:
        """The ids of ``text`` alone: no start, no end, no limit."""


def open_tokenizer(name: str, eos_token: str | None = None) -> TextTokenizer:
    """Opens a tokenizer.

    Args:
        name: ``bytes``; ``clip``; or a ``tokenizer.json`` of Hugging Face's ``tokenizers``, or a folder that holds one.
        eos_token: The token that ends a document, for a file; None takes the one that ``tokenizer_config.json`` beside
            it names.

    Raises:
        ConfigError: There is no such tokenizer or token.
        DataError: The file is damaged, or CLIP's vocabulary cannot be had.
    """
    own: dict[str, Callable[[], TextTokenizer]] = {"bytes": Utf8Bytes, "clip": Clip}
    if name in own:
        if eos_token is not None:
            raise ConfigError(f"{name} has an end token of its own", where="eos_token", mend="leave it out")
        return own[name]()
    path = Path(name) / _FILE if Path(name).is_dir() else Path(name)
    if not path.is_file():
        mend = f"{did_you_mean(name, own)}; or name a {_FILE}, or a folder that holds one"
        raise ConfigError(f"there is no tokenizer {name!r}", where="tokenizer", mend=mend)
    return HuggingFace(path, eos_token)


class Utf8Bytes:
    """UTF-8 bytes as ids 0 to 255, and 256 for the end of a document."""

    identity = Identity("bytes", hashlib.sha256(b"UTF-8 bytes, 256 ends").hexdigest(), 257, 256)

    def encode(self, text: str) -> list[int]:
        return list(text.encode())


class Clip:
    """CLIP's vocabulary; the text is cleaned and lower-cased as CLIP does."""

    identity = Identity("clip", MEMBER_SHA256, ClipTokenizer.vocab_size, ClipTokenizer.eot)

    def __init__(self) -> None:
        self._tokenizer = ClipTokenizer()
        self._tokenizer.load()

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text)


class HuggingFace:
    """A ``tokenizer.json``. Texts that spell a special token get its id, as everywhere else with such a file."""

    def __init__(self, path: Path, eos_token: str | None) -> None:
        content = path.read_bytes()
        try:
            self._tokenizer = Tokenizer.from_str(content.decode())
        except Exception as error:  # tokenizers raises bare Exceptions
            mend = f"name a {_FILE} that Tokenizer.save() of Hugging Face's tokenizers wrote"
            raise DataError(f"not a tokenizer: {error}", where=str(path), mend=mend) from None
        # A file may carry both, and packing wants neither.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        token = eos_token if eos_token is not None else _configured_eos(path.with_name("tokenizer_config.json"))
        if token is not None and token not in vocabulary:
            raise ConfigError(f"the tokenizer has no token {token!r}", where=str(path), mend=_special(self._tokenizer))
        name = path.parent.resolve().name if path.name == _FILE else path.stem
        sha256 = hashlib.sha256(content).hexdigest()
        eos = None if token is None else vocabulary[token]
        self.identity = Identity(name, sha256, max(vocabulary.values()) + 1, eos)

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids


def _configured_eos(path: Path) -> str | None:
    try:
        token = json.loads(path.read_bytes()).get("eos_token")
    except FileNotFoundError:
        return None
    except (ValueError, AttributeError) as error:
        raise DataError(
            f"not a tokenizer's configuration: {error}", where=str(path), mend="mend or delete it"
        ) from None
    return token["content"] if isinstance(token, dict) else token


def _special(tokenizer: Tokenizer) -> str:
    special = sorted(token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special)
    return f"its special tokens are {', '.join(special)}" if special else "it has no special tokens"
