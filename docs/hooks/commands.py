"""The reference of the command line, from the program itself: its usage, and what each command says of itself."""

from __future__ import annotations

import importlib
import inspect
import io
import os
import re
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from unittest.mock import patch

from mmtrain.__main__ import USAGE, main

HEAD = """# Commands

This page is what the program says of itself: `python -m mmtrain`, and `--help` of each command.

"""
PLAIN = {"COLUMNS": "110", "NO_COLOR": "1", "PYTHON_COLORS": "0", "TERM": "dumb"}


def commands_page() -> str:
    """The page, in Markdown."""
    sections = [f"## {verb}\n\n{_section(verb)}" for verb in verbs(USAGE)]
    return HEAD + _block(USAGE) + "\n" + "\n".join(sections)


def verbs(usage: str) -> list[str]:
    """The commands that a usage names: the first words of its indented lines."""
    words = re.findall(r"^  \[?(\w+)\]?(?: |$)", usage, re.MULTILINE)
    return list(dict.fromkeys(words))


def helps(*command: str) -> Iterator[tuple[str, str]]:
    """What a command and those below it answer to ``--help``; nothing of one that takes overrides alone."""
    status, text = _said(*command, "--help")
    if status != 0:
        return
    name = " ".join(command)
    yield name, text
    children = {"data": verbs(text), "data pack": ["images", "text"], "sweep": ["run", "status"]}
    for child in children.get(name, []):
        yield from helps(*command, child)


def _section(verb: str) -> str:
    said = list(helps(verb))
    if not said:
        return _described(verb)
    own, *others = (_block(text) for _, text in said)
    headed = (f"### {name}\n\n{block}" for (name, _), block in zip(said[1:], others, strict=True))
    return "\n".join([own, *headed])


def _described(verb: str) -> str:
    """What the code says of a command without options of its own: the docstrings of its module and its function."""
    module = importlib.import_module(f"mmtrain.command.{verb}")
    functions = [value for value in vars(module).values() if inspect.isfunction(value)]
    public = next(f for f in functions if f.__module__ == module.__name__ and not f.__name__.startswith("_"))
    body = re.split(r"^(?:Args|Raises|Returns):", inspect.getdoc(public) or "", flags=re.MULTILINE)[0]
    return f"{module.__doc__}\n\n{body}".replace("``", "`")


def _said(*arguments: str) -> tuple[int, str]:
    out = io.StringIO()
    with patch.dict(os.environ, PLAIN), redirect_stdout(out), redirect_stderr(io.StringIO()):
        try:
            status = main(list(arguments))
        except SystemExit as end:  # argparse leaves so
            status = int(end.code or 0)
    return status, "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def _block(text: str) -> str:
    return f"```text\n{text.rstrip()}\n```\n"
