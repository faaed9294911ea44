"""The lines of a topic, folded to a width: paragraphs at the margin, lists and definitions at their text."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator

WIDEST = 100
"""The width of a topic on a wider terminal, and in a pipe."""

_DEFINITION = re.compile(r" +\S.* {2,}(?=\S)")
_LEAST_TEXT = 30


def laid_out(lines: Iterable[str], width: int) -> Iterator[str]:
    """The lines in at most `width` columns.

    A line is a paragraph; one that is indented belongs to a list. What stands after two spaces in it is a definition,
    under which its next lines begin.
    """
    width = min(width, WIDEST)
    for line in lines:
        indent = len(line) - len(line.lstrip())
        found = _DEFINITION.match(line)
        if found and found.end() <= width - _LEAST_TEXT:
            indent = found.end()
        yield from textwrap.wrap(
            line, width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False,
            replace_whitespace=False, expand_tabs=False,
        ) or [""]  # fmt: skip
