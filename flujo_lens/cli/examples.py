"""The examples in the help of a command: paragraphs whose lines all begin with ``lens``, or pipe into it.

A comment follows a line after two or more spaces. A test runs every example.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

_LINE = re.compile(r"(?P<line>(?:[^#]*\| )?lens .+?)(?: {2,}(?P<comment>.+))?")


class Example(NamedTuple):
    """A line to type, and what it does; the comment may be empty."""

    line: str
    comment: str


def parts_of(help: str) -> tuple[list[str], list[Example]]:
    """The paragraphs of a help text, and its examples."""
    text, examples = list[str](), list[Example]()
    for paragraph in re.split(r"\n\s*\n", help.strip()):
        found = [_LINE.fullmatch(line.strip()) for line in paragraph.splitlines()]
        if text and all(found):
            examples += [Example(match["line"], match["comment"] or "") for match in found if match]
        else:
            text.append(paragraph)
    return text, examples


def examples_of(help: str) -> Sequence[Example]:
    """The examples of a help text."""
    return parts_of(help)[1]


def with_headings(help: str, more: Iterable[Example] = ()) -> str:
    """The help text as Rich markup: paragraphs of one line, and the examples as in gh: comments and lines to type.

    Args:
        more: Examples of other commands.
    """
    paragraphs, examples = parts_of(help)
    examples += more
    text = [" ".join(paragraph.split()) for paragraph in paragraphs]
    lines = ["[bold]Examples[/bold]"] if examples else []
    for line, comment in examples:  # Typer would remove spaces at the beginning of all lines
        lines += [f"[dim]  # {_plain(comment)}[/dim]"] if comment else []
        lines.append(f"[not dim]  $ {_plain(line)}[/not dim]")
    return "\n\n".join([*text, *(["\n".join(lines)] if lines else [])])


def _plain(text: str) -> str:
    """Text that Rich does not read as markup."""
    return re.sub(r"(?<!\\)\[", r"\\[", text)
