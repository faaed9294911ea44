"""Where quoted texts, lists and dicts end, at any depth of texts inside texts, and in a text that was cut short."""

from __future__ import annotations

from collections.abc import Iterator

from flujo_lens.redaction.patterns import Pattern

Span = tuple[int, int]

QUOTE = Pattern(r"""\\*["'`]$""")
"""The quote at the end of a text, with the backslashes of the texts that it stands in."""

_ANY_QUOTE = Pattern(r"""(\\*)(["'`])""")
_TOKEN = Pattern(r"""(?P<quote>(?P<slashes>\\*)["'`])|[{}()\[\]]""")
_OF_KEY = Pattern(r"(?:\s|\\+[nrt])*:")
_OPENING = "{(["


def quoted_span(text: str, at: int) -> Span:
    """What stands between the quote at `at` and its end; up to the end of the text where that was cut off.

    A quote in a text inside a text has backslashes before it. It is closed by the same quote with as many of them; one
    with fewer ends a text around it, one with more is part of what is quoted.
    """
    opening = _ANY_QUOTE.match(text, at)
    assert opening is not None
    depth, quote, start = len(opening[1]), opening[2], opening.end()
    behind = start
    while found := _ANY_QUOTE.search(text, behind):
        slashes, behind = len(found[1]), found.end()
        if found[2] != quote:
            continue
        if slashes < depth:
            return start, found.start()
        if not _closes(slashes, depth) or (slashes != depth and text[behind : behind + 1].isalnum()):
            continue  # an escaped one, as of "it's", whose backslash may be doubled by the text around
        if depth or found.end() == start + 1 or text[behind : behind + 1] != quote:
            return start, found.end() - 1 - depth
        behind += 1  # two quotes are one in SQL and CSV
    return start, len(text)


def _closes(slashes: int, depth: int) -> bool:
    """Whether a quote with so many backslashes closes one that was opened with `depth`."""
    if slashes == depth:
        return True
    over, unit = slashes - depth, depth + 1
    return slashes > depth and unit & (unit - 1) == 0 and over % unit == 0 and (over // unit) % 2 == 0


def container_spans(text: str, at: int, around: str) -> list[Span]:
    """The texts inside the bracket at `at`, without the keys of dicts.

    Args:
        at: Where the bracket opens.
        around: The quote, with its backslashes, of the key that it stands under; "" if it has none.
    """
    return list(_inside(text, at, len(around[:-1])))


def _inside(text: str, at: int, least: int) -> Iterator[Span]:
    depth = 0
    while found := _TOKEN.search(text, at):
        at = found.end()
        if found["quote"]:
            if len(found["slashes"]) < least:
                return
            start, end = quoted_span(text, found.start())
            at = min(len(text), end + len(found["quote"]))
            if not _OF_KEY.match(text, at) and text[start:end].strip("*"):
                yield start, end
        else:
            depth += 1 if found.group() in _OPENING else -1
            if depth <= 0:
                return
