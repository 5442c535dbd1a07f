"""``python -m mmtrain data prepare NAME``: makes the shards of a data set that mmtrain knows."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from mmtrain.command.data.table import find_sets, print_sets
from mmtrain.data.sources import Source
from mmtrain.data.sources.emoji import Emoji
from mmtrain.errors import UserError, did_you_mean

SOURCES: dict[str, Callable[[int], Source]] = {"emoji": Emoji}


def prepare(argv: list[str]) -> None:
    """Makes a data set's folder, unless it is made.

    Raises:
        UserError: There is no such data set.
        DataError: The data cannot be had.
    """
    parser = argparse.ArgumentParser("python -m mmtrain data prepare", description="Makes a data set's shards.")
    parser.add_argument("name", help=", ".join(SOURCES))
    parser.add_argument("--root", type=Path, help="folder to make; $MMTRAIN_DATA/NAME or data/NAME if not given")
    parser.add_argument("--image-size", type=int, default=72, help="height and width of the pictures, in pixels")
    arguments = parser.parse_args(argv)
    if arguments.name not in SOURCES:
        mend = did_you_mean(arguments.name, SOURCES)
        raise UserError(f"there is no data set {arguments.name!r}", where="command line", mend=mend)
    root = arguments.root or Path(os.environ.get("MMTRAIN_DATA", "data")) / arguments.name
    SOURCES[arguments.name](arguments.image_size).prepare(root)
    print_sets(str(root), find_sets(root))
    Console().print(f"Sources, licences and what to beware of: {root / 'README.md'}", markup=False, soft_wrap=True)
