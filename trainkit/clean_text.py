"""Texts that a job chose, without what a terminal or a page would obey: control characters, escapes, directions.

A terminal obeys ESC and the controls of C0 and C1: they set its title, fill its clipboard and erase its lines.
Unicode's directional characters change the order in which a line is read. None of these is printable.
"""

from __future__ import annotations

import re

#: Those below are escaped in JSON anyway.
_BEYOND_ASCII = re.compile("[^\\x00-\\x7e]+")


def clean(words: str) -> str:
    """Return words that users and training code chose on one line, and without what a terminal would obey.

    >>> clean("fit\\x1b[2J\\nRUNNING")
    'fit [2J RUNNING'
    """
    return words if words.isprintable() else "".join(each if each.isprintable() else " " for each in words)


def clean_lines(text: str) -> str:
    """Return text of several lines as :func:`clean` does; ends of lines and tabs stay.

    >>> clean_lines("a\\tb\\r\\n\\x1b[2Jc\\u202e")
    'a\\tb\\n [2Jc '
    """
    lines = text.replace("\r\n", "\n").split("\n")
    return "\n".join("\t".join(map(clean, line.split("\t"))) for line in lines)


def clean_json(text: str) -> str:
    """Return JSON with the same values in which each unprintable character is escaped.

    >>> clean_json('{"name":"é\\x9b31m"}')
    '{"name":"é\\\\u009b31m"}'
    """
    return _BEYOND_ASCII.sub(lambda match: "".join(map(_escaped, match[0])), text)


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))
