"""``python -m mmtrain data pack images|text``: anyone's data into standard shards."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path

from rich.console import Console

from mmtrain.command.data.table import print_sets
from mmtrain.data.pack.images import pack_images
from mmtrain.data.pack.pairs import CaptionTable
from mmtrain.data.pack.pictures import Resize
from mmtrain.data.pack.text import pack_text
from mmtrain.errors import UserError, did_you_mean

_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def pack(argv: list[str]) -> None:
    """Runs ``data pack images`` or ``data pack text``.

    Raises:
        UserError: No such kind, or an option is wrong.
        DataError: The input cannot be packed, or the folder holds other things.
    """
    kinds = {"images": _images, "text": _text}
    if not argv or argv[0] in ("-h", "--help"):
        usage = "usage: python -m mmtrain data pack [images FOLDER | text INPUT...] --out DIR [-h]"
        Console().print(usage, markup=False, highlight=False, soft_wrap=True)
        return
    if argv[0] not in kinds:
        mend = did_you_mean(argv[0], kinds)
        raise UserError(f"there is no `data pack {argv[0]}`", where="command line", mend=mend)
    kinds[argv[0]](argv[1:])


def _images(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        "python -m mmtrain data pack images",
        description="Packs a folder of images: captions from a table, from x.txt beside x.jpg, or labels from folders.",
    )
    parser.add_argument("folder", type=Path, help="the images, at any depth")
    parser.add_argument("--captions", type=Path, metavar="TABLE", help=".csv, .tsv, .jsonl or .parquet, a row an image")
    parser.add_argument("--path-column", default="file", help="an image's path in the folder (file)")
    parser.add_argument("--caption-column", default="caption", help="its caption (caption)")
    parser.add_argument("--label-column", help="its label, an integer; none")
    parser.add_argument("--shuffle", type=int, metavar="SEED", help="a random order; else that of the table or paths")
    parser.add_argument("--resize", type=int, metavar="SIDE", help="shrink shorter sides to this, as JPEG; else copy")
    parser.add_argument("--quality", type=int, default=90, help="of the JPEGs that --resize writes (90)")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--samples-per-shard", type=int, default=10_000, help="(10000)")
    size.add_argument("--shard-size", metavar="SIZE", help="most bytes of a shard, such as 256MB or 1GiB")
    _add_common(parser)
    arguments = parser.parse_args(argv)
    table = None
    if arguments.captions is not None:
        columns = (arguments.path_column, arguments.caption_column, arguments.label_column)
        table = CaptionTable(arguments.captions, *columns)
    manifest = pack_images(
        arguments.folder,
        arguments.out,
        captions=table,
        samples_per_shard=arguments.samples_per_shard,
        shard_size=None if arguments.shard_size is None else _bytes(arguments.shard_size),
        shuffle=arguments.shuffle,
        resize=None if arguments.resize is None else Resize(arguments.resize, arguments.quality),
        skip_bad=arguments.skip_bad,
        num_workers=arguments.workers,
    )
    print_sets(str(arguments.out), {arguments.out.name: manifest})


def _text(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        "python -m mmtrain data pack text", description="Tokenises documents and packs them, a sample a document."
    )
    parser.add_argument("inputs", type=Path, nargs="+", metavar="INPUT", help=".jsonl .csv .tsv .txt .parquet; folders")
    parser.add_argument("--tokenizer", required=True, help="bytes, clip, minilm, or a tokenizer.json or its folder")
    parser.add_argument("--eos-token", help="the token that ends a document; the tokenizer's own")
    parser.add_argument(
        "--append-eos", action=argparse.BooleanOptionalAction, default=True, help="end documents with it"
    )
    parser.add_argument("--text-column", default="text", help="where a table holds the text (text)")
    parser.add_argument(
        "--split-on", choices=("file", "blank-line"), default="file", help="a document of a .txt (file)"
    )
    parser.add_argument("--keep-text", action="store_true", help="store the text beside its ids")
    parser.add_argument("--sentences", action="store_true", help="store where sentences end, for masked text")
    parser.add_argument("--samples-per-shard", type=int, default=10_000, help="(10000)")
    _add_common(parser)
    arguments = parser.parse_args(argv)
    manifest = pack_text(
        arguments.inputs,
        arguments.out,
        tokenizer=arguments.tokenizer,
        eos_token=arguments.eos_token,
        append_eos=arguments.append_eos,
        text_column=arguments.text_column,
        split_on=arguments.split_on,
        keep_text=arguments.keep_text,
        sentences=arguments.sentences,
        samples_per_shard=arguments.samples_per_shard,
        skip_bad=arguments.skip_bad,
        num_workers=arguments.workers,
    )
    print_sets(str(arguments.out), {arguments.out.name: manifest})


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the data set's folder; goes on with it")
    workers = min(8, os.cpu_count() or 1)
    parser.add_argument("--workers", type=int, default=workers, help=f"processes ({workers}); they change no byte")
    parser.add_argument("--skip-bad", action="store_true", help="leave out what is bad, and list it in pack.json")


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+) ?([KMG]i?B|B)?", text)
    if match is None:
        mend = f"write a number and a unit, such as 256MB; units: {', '.join(_UNITS)}"
        raise UserError(f"{text!r} is no size", where="--shard-size", mend=mend)
    return int(match[1]) * _UNITS[match[2] or "B"]
