"""Passwords and keys in a config, a command line or a patch, which no record of a run may show."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

MASK = "***"

_WORDS = frozenset({"password", "passwd", "passphrase", "secret", "secrets", "credential", "credentials", "apikey"})
_KEYS = frozenset({"api", "access", "secret", "private", "account", "signing", "encryption", "license", "auth"})
# fmt: off
_SIGNS = frozenset({
    "begin", "bos", "class", "cls", "end", "eos", "eot", "first", "image", "last", "mask", "new", "pad", "prompt",
    "register", "sep", "separator", "sos", "special", "start", "stop", "text", "unk", "video",
})
# fmt: on
"""What a token of a vocabulary is called: ``pad_token`` is no secret."""

_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_PAIR = re.compile(r"""(?P<key>[\w.-]+)(?P<colon>\s*:\s*)(?P<value>"[^"]*"|'[^']*'|[^,{}\[\]]+)""")
_USER = re.compile(r"(\w[\w+.-]*://)[^/?#\s]*@")
_SIGNED = re.compile(r"([?&][\w.-]*(?:token|sig|signature|secret|password|credential|key)[\w.-]*=)[^&#\s]+", re.I)

_KNOWN = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----"
    r"|\b(AKIA[0-9A-Z]{16}|gh[pousr]_\w{30,}|github_pat_\w{30,}|glpat-[\w-]{20,}|hf_[A-Za-z0-9]{30,}|sk-[\w-]{20,}"
    r"|xox[abprs]-[\w-]{10,})"
    r"|\w://[^/\s:@'\"{}]+:[^/\s@'\"{}]+@"
)
"""What is a secret by its form: keys of AWS, GitHub, GitLab, Hugging Face, OpenAI, Slack; passwords in URLs."""

_QUOTED = re.compile(r"""(?P<key>[\w.-]+)["']?\]?\s*[:=]\s*["'](?P<value>[^"'\s${}<>]{8,})["']""")
_PLAIN = re.compile(r"^[+ -]?\s*(export\s+|set\s+)?(?P<key>[\w.-]+)\s*[:=]\s*(?P<value>[^\s\"'${}<>()]{8,})\s*(#.*)?$")
_HINT = re.compile(r"passw|passphrase|secret|key|token|credential|jwt", re.I)
_IDENTIFIER = re.compile(r"[a-z_.]*|[A-Z_.]*")


def is_secret(key: str) -> bool:
    """Whether a key's name says that its value is a secret: ``api_key``, ``hf_token``, but not ``pad_token``.

    Args:
        key: A name, or a dotted key, of which any part may say it.
    """
    return any(_names_secret(part) for part in key.split("."))


def masked(value: Any, key: str = "") -> Any:
    """A copy of a config without its secrets.

    Masked are values under a key that names a secret, numbers only where it names a password, and names and
    signatures inside URLs.

    Args:
        value: Plain dicts, lists and scalars.
        key: The key under which ``value`` stands.
    """
    if isinstance(value, Mapping):
        return {name: masked(child, f"{key}.{name}" if key else str(name)) for name, child in value.items()}
    if isinstance(value, list | tuple):
        return [masked(child, key) for child in value]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return MASK if value and is_secret(key) else mask_urls(value)
    return MASK if is_secret(key) and "token" not in key.lower() else value


def mask_arguments(arguments: Sequence[str]) -> list[str]:
    """A command line without its secrets."""
    shown = [mask_argument(argument) for argument in arguments]
    for number, argument in enumerate(arguments[:-1], start=1):
        if argument.startswith("--") and "=" not in argument and is_secret(argument[2:]):
            shown[number] = MASK
    return shown


def mask_argument(argument: str) -> str:
    """An override or another argument of a command line without its secrets."""
    key, equals, value = argument.partition("=")
    if equals and is_secret(key.lstrip("+~-")):
        return f"{key}={MASK}"
    return mask_urls(_PAIR.sub(_mask_pair, argument) if "{" in value else argument)


def mask_urls(text: str) -> str:
    """A text whose URLs bear neither a user nor a signature."""
    return _SIGNED.sub(rf"\g<1>{MASK}", _USER.sub(r"\1", text))


def secret_line(text: str, *, settings: bool) -> int | None:
    """The first line, from 1, of a patch or a source file in which a secret seems to stand; None where none does.

    Args:
        text: The text.
        settings: Whether values need no quotes there, as in YAML and shell scripts.
    """
    patterns = (_QUOTED, _PLAIN) if settings else (_QUOTED,)
    for number, line in enumerate(text.splitlines(), start=1):
        if _KNOWN.search(line):
            return number
        hinted = patterns if _HINT.search(line) else ()
        for pair in (pair for pattern in hinted for pair in pattern.finditer(line)):
            if is_secret(pair["key"]) and not _IDENTIFIER.fullmatch(pair["value"]):
                return number
    return None


def _mask_pair(pair: re.Match[str]) -> str:
    return f"{pair['key']}{pair['colon']}{MASK}" if is_secret(pair["key"]) else pair[0]


def _names_secret(name: str) -> bool:
    words = [word for word in re.split(r"[^a-z0-9]+", _CAMEL.sub("_", name).lower()) if word]
    pairs = set(itertools.pairwise(words))
    if _WORDS.intersection(words) or any((word, "key") in pairs for word in _KEYS):
        return True
    return bool(words) and words[-1] == "token" and not _SIGNS.intersection(words)
