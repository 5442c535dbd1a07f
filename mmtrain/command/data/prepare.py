"""``python -m mmtrain data prepare NAME``: makes the shards of a data set that mmtrain knows."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from mmtrain.command.data.table import find_sets, print_sets
from mmtrain.config import compose, instantiate, validate
from mmtrain.errors import UserError
from mmtrain.run.datamodule import Data


def prepare(argv: list[str]) -> None:
    """Makes what a node of config group ``data`` needs, where training will look for it, unless it is made.

    Raises:
        ConfigError: There is no such node, or an override is wrong.
        UserError: The node makes nothing: it reads shards of the user's.
        DataError: The data cannot be had.
    """
    parser = argparse.ArgumentParser("python -m mmtrain data prepare", description="Makes a data set's shards.")
    parser.add_argument("name", help="an option of group data, such as emoji, mnist, wiki_text, reviews")
    parser.add_argument("overrides", nargs="*", help="such as data.source.image_size=64")
    parser.add_argument("--root", type=Path, help="folder to make; that of the config if not given")
    parser.add_argument("--config-dir", type=Path, action="append", default=[], help="with options of your own")
    arguments = parser.parse_intermixed_args(argv)
    root_override = [] if arguments.root is None else [f"data.root={arguments.root}"]
    composed = compose(
        [f"data={arguments.name}", "name=prepare", "budget.epochs=1", *arguments.overrides, *root_override],
        extra_dirs=arguments.config_dir,
    )
    validate(composed)
    node = composed.config["data"]
    if node.get("source") is None:
        mend = "index them: python -m mmtrain data index DIR; or make some: python -m mmtrain data pack"
        raise UserError(f"data={arguments.name} reads shards of yours", where="command line", mend=mend)
    data: Data = instantiate(node, "data", seed=composed.config["seed"])
    data.prepare()
    root = Path(node["root"])
    print_sets(str(root), find_sets(root))
    Console().print(f"Sources, licences and what to beware of: {root / 'README.md'}", markup=False, soft_wrap=True)
