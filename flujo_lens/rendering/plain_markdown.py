"""Markdown as plain text, without Rich: headings, lists, code blocks and paragraphs without their marks."""

from __future__ import annotations

import re
from collections.abc import Iterator

_HEADING = re.compile(r"^#+ ", re.MULTILINE)
_CODE = re.compile(r"`([^`]+)`")
_FENCED = re.compile(r"^```[a-z]*\n(.*?)^```\n", re.DOTALL | re.MULTILINE)


def plain_text(page: str) -> str:
    """The text of a page; its code blocks are indented."""
    return "".join(_parts(page))


def _parts(page: str) -> Iterator[str]:
    for number, part in enumerate(_FENCED.split(page)):
        if number % 2:
            yield "".join(f"    {line}\n" if line else "\n" for line in part.splitlines())
        else:
            yield _CODE.sub(r"\1", _HEADING.sub("", part))
