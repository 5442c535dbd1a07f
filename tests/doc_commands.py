"""The commands of a page of documentation, and what each of them must be to be right."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "slurm/README.md", "examples/rotnet/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
_BLOCK = re.compile(r"^```(bash|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"^```text\n(\S+\.ya?ml)\n```\n\n```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"(?<!`)`(python -m mmtrain [^`]+)`(?!`)")


@dataclass(frozen=True)
class Command:
    """A command of one line.

    Attributes:
        page: Where it stands.
        words: As the shell hands them on.
        output: What the page says that it prints; None where it says nothing.
    """

    page: Path
    words: tuple[str, ...]
    output: str | None = None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}: {shlex.join(self.words)}"


def commands(page: Path) -> Iterator[Command]:
    """All commands of a page: of its blocks, and, where nothing is left open, in its sentences."""
    text = page.read_text(encoding="utf-8")
    for kind, block in _BLOCK.findall(text):
        if kind == "console":
            yield from _console(page, block)
        else:
            for line in block.replace("\\\n", " ").splitlines():
                yield from _line(page, line)
    for inline in _INLINE.findall(_BLOCK.sub("", text)):
        if len(inline.split()) > 4 and "..." not in inline and not re.search(r"(^|[ =])[A-Z]{2,}\b", inline):
            yield from _line(page, " ".join(inline.split()))


def files(page: Path) -> dict[str, str]:
    """Files that a page tells to write: a block with nothing but a path, and one with what belongs into it."""
    return dict(_FILE.findall(page.read_text(encoding="utf-8")))


def _console(page: Path, block: str) -> Iterator[Command]:
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        line, _, output = part.partition("\n")
        (command,) = _line(page, line)
        yield Command(page, command.words, output.rstrip("\n"))


def _line(page: Path, line: str) -> Iterator[Command]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;")
    lexer.whitespace_split = True
    words: list[str] = []
    piped = False
    for word in [*lexer, ";"]:
        if word in ("&&", ";", "|", "||"):
            if words and not piped:
                yield Command(page, tuple(words))
            words, piped = [], word == "|"
        else:
            words.append(word)
