"""``python -m mmtrain data VERB``: makes a data set's shards, indexes shards, and looks into them."""

from __future__ import annotations

from rich.console import Console

from mmtrain.errors import UserError, did_you_mean

_USAGE = """\
usage: python -m mmtrain data VERB ... [-h]
  prepare NAME           make the shards of a data set that mmtrain knows
  pack images|text ...   make shards of your own files
  tokenizer INPUT...     train a tokenizer on your texts
  index DIR|PATTERN|URL  index shards, so that they can be trained on
  inspect DIR|PATTERN    counts, sizes and samples of indexed shards; verify them"""


def data(argv: list[str]) -> None:
    """Runs the verb that ``argv`` begins with.

    Raises:
        UserError: There is no such verb, or it refuses its arguments.
    """
    # A verb's libraries are loaded when it is asked for.
    verbs = {"prepare": _prepare, "pack": _pack, "tokenizer": _tokenizer, "index": _index, "inspect": _inspect}
    if not argv or argv[0] in ("-h", "--help"):
        Console().print(_USAGE, markup=False, highlight=False, soft_wrap=True)
        return
    if argv[0] not in verbs:
        raise UserError(f"there is no `data {argv[0]}`", where="command line", mend=did_you_mean(argv[0], verbs))
    verbs[argv[0]](argv[1:])


def _prepare(argv: list[str]) -> None:
    from mmtrain.command.data.prepare import prepare

    prepare(argv)


def _pack(argv: list[str]) -> None:
    from mmtrain.command.data.pack import pack

    pack(argv)


def _tokenizer(argv: list[str]) -> None:
    from mmtrain.command.data.tokenizer import tokenizer

    tokenizer(argv)


def _index(argv: list[str]) -> None:
    from mmtrain.command.data.index import index

    index(argv)


def _inspect(argv: list[str]) -> None:
    from mmtrain.command.data.inspect import inspect

    inspect(argv)
