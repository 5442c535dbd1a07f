"""Where the sentences of a text end."""

from __future__ import annotations

import re

# A line ends a sentence; so do . ! ? with what closes after them, before white space and what may begin a sentence.
_END = re.compile(r"""(?P<line>[^\n]\n+)|[.!?]["'”’)\]]*(?=\s+["'“‘(\[]*[A-Z0-9À-ÞĀ-Ž])""")
_ABBREVIATION = re.compile(r"(?:^|[\s(\[])(?:[A-Z]|(?:[A-Za-z]\.)+[A-Za-z]|Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|vs|No|c|ca)\.$")
_BEFORE = 12  # characters in which an abbreviation stands


def sentence_ends(text: str) -> list[int]:
    """Positions in ``text`` where its sentences end, ascending; the last one is the text's end.

    A rule of thumb for languages in Latin script: ``.``, ``!`` or ``?``, with closing quotes and brackets, ends a
    sentence before white space and a capital letter or digit, and so does a line's end. Initials (``J. Bach``), letters
    with dots (``U.S.``) and a few titles (``Dr.``) end none.
    """
    ends = []
    for match in _END.finditer(text):
        end = match.end()
        if match["line"] or not _ABBREVIATION.search(text[max(0, end - _BEFORE) : end]):
            ends.append(end)
    if text and (not ends or ends[-1] < len(text)):
        ends.append(len(text))
    return ends
