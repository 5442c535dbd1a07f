"""``python -m mmtrain data tokenizer``: trains a tokenizer on texts."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmtrain.command.data.table import print_table
from mmtrain.data.pack.train_tokenizer import train_tokenizer


def tokenizer(argv: list[str]) -> None:
    """Trains a tokenizer and says what it is.

    Raises:
        ConfigError: A setting does not fit the kind.
        DataError: A text is missing, damaged or empty, or the folder holds something.
    """
    arguments = _parser().parse_args(argv)
    made = train_tokenizer(
        arguments.inputs,
        arguments.out,
        kind=arguments.kind,
        vocab_size=arguments.vocab_size,
        lower_case=arguments.lower_case,
        text_column=arguments.text_column,
        split_on=arguments.split_on,
    )
    row = [arguments.kind, f"{made.vocab_size:,}", made.fingerprint[:12]]
    print_table(str(arguments.out), ["kind", "tokens", "fingerprint"], [row], left=("kind", "fingerprint"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m mmtrain data tokenizer",
        description="Trains a tokenizer on texts; the same texts give the same bytes. AutoTokenizer loads its folder.",
    )
    parser.add_argument("inputs", type=Path, nargs="+", metavar="INPUT", help=".jsonl .csv .tsv .txt .parquet; folders")
    parser.add_argument("--kind", required=True, help="wordpiece (BERT's), bpe (GPT-2's, over bytes) or char")
    parser.add_argument("--vocab-size", type=int, metavar="N", help="most tokens; of char the texts decide")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the tokenizer's folder, new or empty")
    parser.add_argument("--lower-case", action="store_true", help="of wordpiece: lower case, without accents")
    parser.add_argument("--text-column", default="text", help="where a table holds the text (text)")
    parser.add_argument(
        "--split-on", choices=("file", "blank-line"), default="file", help="a document of a .txt (file)"
    )
    return parser
